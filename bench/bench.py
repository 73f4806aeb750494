"""Comparison of bearward with its peers: same upstream and work, random order in a round.

Prints a table of ratios. Writes all figures to target/bench/bench.json, and a picture with `--svg`.
A peer that is not installed is left out. LiteLLM only takes part in the scenarios of chat requests.
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
from peers import CADDY, ENVOY, LITELLM, Caddy, Envoy, LiteLlm
from ratios import ratio
from report import BATCHING
from subjects import ROOT, BatchingHaProxy, Bearward, HaProxy, Nginx, Origin

CLOSE = '"close"'
# What `--peers` can name, and the subjects of each by name.
PEERS = {
    "nginx": {"nginx": Nginx, "nginx-copy": Nginx},
    "haproxy": {"haproxy": HaProxy, BATCHING: BatchingHaProxy},
    "envoy": {"envoy": Envoy},
    "caddy": {"caddy": Caddy},
    "litellm": {"litellm": LiteLlm},
}
# LiteLLM takes 750 MB, and several hundred times the CPU time of the others.
USUAL = [name for name in PEERS if name != "litellm"]


class Scenario:
    """A load and the number of workers of each subject.

    `figures` are the compared values; for all of them, smaller is better.
    """

    def __init__(self, name, title, load, workers=1, seconds=2, figures=("cpu",), aims=None, is_of_events=False,
                 is_of_chat=False):
        self.name, self.title, self.load, self.workers, self.seconds = name, title, load, workers, seconds
        self.figures, self.aims, self.rounds = figures, aims or {}, []
        # Batching matters where the answer comes in parts.
        self.is_of_events = is_of_events
        # LiteLLM can do nothing else.
        self.is_of_chat = is_of_chat

    def prepare(self, subjects, origin):
        """Called once before the first round."""

    def runs(self, name):
        """Whether a round measures the subject of this name."""
        return {BATCHING: self.is_of_events, "litellm": self.is_of_chat}.get(name, True)

    def values(self, subject, figure):
        return [outcomes.get(subject, {}).get(figure) for outcomes in self.rounds]

    def ratios(self, figure):
        """Ratio of each pair of subjects, by the names of the pair."""
        pairs = [("bearward", peer) for peer in report.PEERS] + [report.CONTROL]
        return {pair: ratio(self.values(pair[0], figure), self.values(pair[1], figure)) for pair in pairs}

    def spread(self):
        """Largest relative half-width of the 95% intervals of its ratios."""
        if not self.rounds:
            return 2.0
        measured = set().union(*self.rounds)
        pairs = (pair for figure in self.figures for pair in self.ratios(figure).items())
        return max((one.spread if one else 1.0 for pair, one in pairs if measured.issuperset(pair)), default=0.0)


class Tail(Scenario):
    """A load over TLS in an open loop, at 70% of the rate at which the slower of nginx and HAProxy is saturated."""

    def prepare(self, subjects, origin):
        peers = [subject for subject in subjects if subject.name in ("nginx", "haproxy")] or subjects
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
        Scenario("chat", "chat request of 1 KiB, 16 connections", partial(get, connections=16, **loads.CHAT), is_of_chat=True),
        Scenario("chat-sse", "event of 4 streams of chat requests", partial(loads.events, streams=4, command="chat"),
                 is_of_events=True, is_of_chat=True),
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


def installed(peers):
    """Those of the named peers that are there. Names the others."""
    found = []
    for peer in peers:
        missing = [what for kind in PEERS[peer].values() if (what := kind.missing())]
        if missing:
            print(f"{peer} is left out: {missing[0]} is not installed", file=sys.stderr)
        else:
            found.append(peer)
    return found


def start(directory, workers, origin, peers, chosen):
    """The subjects that a chosen scenario measures with so many workers."""
    kinds = {name: kind for peer in peers for name, kind in PEERS[peer].items()} | {"bearward": Bearward}
    needed = [name for name in kinds if any(one.runs(name) for one in chosen if one.workers == workers)]
    return [kinds[name](name, directory, origin, workers, cores(workers)[0]) for name in needed]


def one_round(scenario, subjects, origin):
    outcomes = {}
    running = [subject for subject in subjects if scenario.runs(subject.name)]
    for subject in random.sample(running, len(running)):
        with subject.measured():
            outcome = scenario.load(subject, origin, cores(scenario.workers)[1], scenario.seconds)
        if not outcome["wrong"]:
            outcomes[subject.name] = outcome
        elif subject.MAY_FALL_BEHIND:
            print(f"\n{scenario.name}, {subject.name}, left out of a round: {outcome['wrong']}", file=sys.stderr)
        else:
            raise SystemExit(f"{scenario.name}, {subject.name}: {outcome['wrong']}")
    scenario.rounds.append(outcomes)


def measure(chosen, peers, minutes, directory):
    """Five rounds of each scenario, then rounds of the scenario with the widest interval."""
    origin = Origin(directory, cores(1)[1])
    subjects, memory = {}, {}
    for workers in sorted({s.workers for s in chosen}):
        subjects[workers] = start(directory, workers, origin, peers, chosen)
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


def versions(peers):
    def first_line(*command):
        done = subprocess.run(command, capture_output=True, text=True)
        return (done.stdout + done.stderr).strip().splitlines()[0].strip()

    programs = {
        "nginx": ["nginx", "-v"],
        "haproxy": ["haproxy", "-v"],
        "envoy": [ENVOY, "--version"],
        "caddy": [CADDY, "version"],
        "litellm": [LITELLM.with_name("python"), "-c", "import importlib.metadata as m; print(m.version('litellm'))"],
    }
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True)
    return {
        "bearward": commit.stdout.strip(),
        **{peer: first_line(*programs[peer]) for peer in peers},
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
    parser.add_argument("--peers", default=",".join(USUAL), help="some of " + ",".join(PEERS) + "; or all")
    parser.add_argument("--svg", type=pathlib.Path, help="file to write the picture to")
    arguments = parser.parse_args()
    peers = list(PEERS) if arguments.peers == "all" else arguments.peers.split(",")
    if unknown := set(peers) - set(PEERS):
        parser.error(f"no peers: {', '.join(unknown)}")
    peers = installed(peers)
    if arguments.only:
        chosen = [one for one in known if one.name in arguments.only.split(",")]
    else:
        # Without LiteLLM, these say what `post` and `sse` say.
        chosen = [one for one in known if "litellm" in peers or not one.is_of_chat]
    with tempfile.TemporaryDirectory(prefix="bearward-bench-") as directory:
        memory = measure(chosen, peers, arguments.minutes, pathlib.Path(directory))
    about = versions(peers)
    lacks = {name: kind.LACKS for peer in peers for name, kind in PEERS[peer].items() if kind.LACKS}
    print(report.table(chosen, memory, about, lacks))
    out = ROOT / "target/bench/bench.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    figures = {scenario.name: scenario.rounds for scenario in chosen}
    out.write_text(json.dumps({"about": about, "pss_kib_at_start": memory, "rounds": figures}, indent=1))
    if arguments.svg:
        arguments.svg.write_text(report.picture(chosen, about))


if __name__ == "__main__":
    main()
