"""Comparison of bearward with nginx, HAProxy and Envoy: same upstream and work, random order in a round.

Prints a table of ratios. Writes all figures to target/bench/bench.json, and a picture with `--svg`.
`--minutes` is the time for all scenarios together. Each round goes to the scenario with the widest
95% interval, until the interval of every ratio is within 3%, or the time is over.
"""

import argparse
import datetime
import json
import pathlib
import platform
import random
import subprocess
import sys
import tempfile
import time
from functools import partial

import loads
import report
from peers import ENVOY, Envoy
from ratios import ratio
from report import BATCHING
from subjects import ROOT, BatchingHaProxy, Bearward, HaProxy, Nginx, Origin

CLOSE = '"close"'


class Scenario:
    """A load and the number of workers of each subject.

    `figures` are the compared values; for all of them, smaller is better.
    """

    def __init__(self, name, title, load, workers=1, seconds=2, figures=("cpu",), aims=None, is_of_events=False):
        self.name, self.title, self.load, self.workers, self.seconds = name, title, load, workers, seconds
        self.figures, self.aims, self.rounds = figures, aims or {}, []
        # Batching matters where the answer comes in parts.
        self.is_of_events = is_of_events

    def prepare(self, subjects, origin):
        """Called once before the first round."""

    def runs(self, subject):
        """Whether a round measures this subject."""
        return self.is_of_events or subject.name != BATCHING

    def values(self, subject, figure):
        return [outcomes.get(subject, {}).get(figure) for outcomes in self.rounds]

    def ratios(self, figure):
        """Ratio of each pair of subjects, by the names of the pair."""
        pairs = [("bearward", peer) for peer in report.PEERS] + [("nginx-copy", "nginx")]
        return {pair: ratio(self.values(pair[0], figure), self.values(pair[1], figure)) for pair in pairs}

    def spread(self):
        """Largest relative half-width of the 95% intervals of its ratios."""
        if not self.rounds:
            return 2.0
        pairs = (pair for figure in self.figures for pair in self.ratios(figure).items())
        found = (ratio for (_, peer), ratio in pairs if peer != BATCHING or self.is_of_events)
        return max(one.spread if one else 1.0 for one in found)


class Tail(Scenario):
    """A load over TLS in an open loop, at 70% of the rate at which the slower of nginx and HAProxy is saturated."""

    def prepare(self, subjects, origin):
        peers = [subject for subject in subjects if subject.name in ("nginx", "haproxy")]
        rates = [loads.get(peer, origin, cores(self.workers)[1], 3, tls=True)["rate"] for peer in peers]
        self.load = partial(loads.paced, rate=int(0.7 * min(rates)), tls=True)


def scenarios():
    """All scenarios. `aims` are the project's goals: ratio to nginx, ratio to HAProxy."""
    get = loads.get
    return [
        Scenario("plain", "small GET", get, aims={"cpu": (0.80, 0.80)}),
        Scenario("plain-2", "small GET, two workers", get, 2, aims={"cpu": (0.80, 0.80)}),
        Scenario("post", "POST of 1 KiB", partial(get, **loads.POST)),
        Scenario("tls", "small GET over TLS", partial(get, tls=True), figures=("cpu", "p99"),
                 aims={"cpu": (0.70, 0.70), "p99": (1.0, 1.0)}),
        Scenario("tls-2", "small GET over TLS, two workers", partial(get, tls=True), 2, aims={"cpu": (0.70, 0.70)}),
        Scenario("handshake", "full TLS handshake and one GET", partial(get, tls=True, connection=CLOSE),
                 aims={"cpu": (0.50, None)}),
        Scenario("http2", "HTTP/2 over TLS", loads.http2, aims={"cpu": (0.70, None)}),
        Scenario("body", "body of 10 MB, a MB", loads.big, aims={"cpu": (0.80, None)}),
        Scenario("sse", "event of 64 streams", loads.events, aims={"cpu": (0.75, 0.75)}, is_of_events=True),
        Scenario("sse-tls", "event of 64 streams over TLS", partial(loads.events, tls=True), aims={"cpu": (0.65, 0.65)},
                 is_of_events=True),
        Scenario("close", "connection a request", partial(get, connection=CLOSE), aims={"cpu": (0.95, None)}),
        Tail("tail-tls", "70% of saturation over TLS", None, figures=("p99",), aims={"p99": (1.0, 1.0)}),
        *(paced(rate, tls) for rate in (100, 1000, 4000) for tls in (False, True)),
    ]  # fmt: skip


def paced(rate, tls):
    """A steady rate, far from saturation, where each request finds the caches cold."""
    name, title = f"paced-{rate}{'-tls' if tls else ''}", f"{rate:,} requests/s{' over TLS' if tls else ''}"
    aims = {"cpu": (0.85, None), "added_p50": (0.80, None), "added_p99": (0.80, None)} if rate > 100 else {}
    load = partial(loads.paced, rate=rate, tls=tls)
    return Scenario(name, title, load, seconds=10 if rate == 100 else 3, figures=("cpu", "added_p50", "added_p99"), aims=aims)


def cores(workers):
    """Cores of the subjects, and of load and origin. With one worker, the two are disjoint."""
    return ([1], [0]) if workers == 1 else (list(range(workers)), list(range(workers)))


def start(directory, workers, origin):
    at = cores(workers)[0]
    kinds = [("nginx", Nginx), ("nginx-copy", Nginx), ("haproxy", HaProxy), (BATCHING, BatchingHaProxy), ("envoy", Envoy)]
    kinds.append(("bearward", Bearward))
    return [kind(name, directory, origin, workers, at) for name, kind in kinds]


def one_round(scenario, subjects, origin):
    outcomes = {}
    running = [subject for subject in subjects if scenario.runs(subject)]
    for subject in random.sample(running, len(running)):
        outcome = scenario.load(subject, origin, cores(scenario.workers)[1], scenario.seconds)
        if outcome["wrong"]:
            raise SystemExit(f"{scenario.name}, {subject.name}: {outcome['wrong']}")
        outcomes[subject.name] = outcome
    scenario.rounds.append(outcomes)


def measure(chosen, minutes, directory):
    """Five rounds of each scenario, then rounds of the scenario with the widest interval."""
    origin = Origin(directory, cores(1)[1])
    subjects, memory = {}, {}
    for workers in sorted({s.workers for s in chosen}):
        subjects[workers] = start(directory, workers, origin)
        if workers == 1:
            # Measured before a second bearward runs: processes of one binary share its pages, as
            # nginx and its copy do.
            time.sleep(3)
            memory = {s.name: s.process.pss_kib() for s in subjects[workers]}
    try:
        for scenario in chosen:
            scenario.prepare(subjects[scenario.workers], origin)
        end = time.monotonic() + minutes * 60
        while time.monotonic() < end:
            unsure = max(chosen, key=lambda scenario: (len(scenario.rounds) < 5, scenario.spread()))
            if unsure.spread() <= 0.03:
                break
            one_round(unsure, subjects[unsure.workers], origin)
            print(".", end="", file=sys.stderr, flush=True)
    finally:
        for subject in (one for all_of_them in subjects.values() for one in all_of_them):
            subject.end()
        origin.end()
    print(file=sys.stderr)
    return memory


def versions():
    def first_line(*command):
        done = subprocess.run(command, capture_output=True, text=True)
        return (done.stdout + done.stderr).strip().splitlines()[0].strip()

    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True)
    return {
        "bearward": commit.stdout.strip(),
        "nginx": first_line("nginx", "-v"),
        "haproxy": first_line("haproxy", "-v"),
        "envoy": first_line(str(ENVOY), "--version"),
        "kernel": platform.release(),
        "processor": next(
            (line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "unknown"
        ),
        "date": datetime.date.today().isoformat(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = scenarios()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--only", default="", help="some of " + ",".join(scenario.name for scenario in known))
    parser.add_argument("--svg", type=pathlib.Path, help="file to write the picture to")
    arguments = parser.parse_args()
    chosen = [one for one in known if not arguments.only or one.name in arguments.only.split(",")]
    with tempfile.TemporaryDirectory(prefix="bearward-bench-") as directory:
        memory = measure(chosen, arguments.minutes, pathlib.Path(directory))
    about = versions()
    print(report.table(chosen, memory, about))
    out = ROOT / "target/bench/bench.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    figures = {scenario.name: scenario.rounds for scenario in chosen}
    out.write_text(json.dumps({"about": about, "pss_kib_at_start": memory, "rounds": figures}, indent=1))
    if arguments.svg:
        arguments.svg.write_text(report.picture(chosen, about))


if __name__ == "__main__":
    main()
