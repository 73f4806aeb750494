"""Growth of bearward's cost: CPU per request and memory, by connections, keys, routes and upstream.

Each figure is the median ratio of paired rounds: the server against itself at the smallest size.
"""

import argparse
import contextlib
import json
import pathlib
import random
import re
import statistics
import tempfile
import time

import loads
from ratios import ratio
from subjects import ROOT, Bearward, Nginx, Origin

SECONDS = 2


def compared(subjects, origin, rounds, load=loads.get, around=None, **options):
    """CPU per request of each subject, one value per round. `around`: context managers, by name."""
    values = {name: [] for name in subjects}
    for _ in range(rounds):
        for name in random.sample(list(subjects), len(subjects)):
            with (around or {}).get(name, contextlib.nullcontext)():
                outcome = load(subjects[name], origin, [0], SECONDS, **options)
            if outcome["wrong"]:
                raise SystemExit(f"{name}: {outcome['wrong']}")
            values[name].append(outcome["cpu"])
    return values


def report(title, values):
    """Prints the median and the ratio to the first subject; returns both by name."""
    first = next(iter(values))
    results = {}
    for name, own in values.items():
        one = ratio(own, values[first])
        results[name] = {"cpu_us": statistics.median(own), "ratio": one.median, "spread": one.spread}
        print(
            f"{title:28} {name:>12}  {statistics.median(own):6.1f} µs  {one.median:.2f} of {first} ±{one.spread:.0%}",
            flush=True,
        )
    return results


def connections(directory, origin, rounds):
    """The same load on 64 connections, beside idle connections that have had one answer each."""
    subject = Bearward("connections", directory, origin, 1, [1])
    # `ulimit -n` of 20,000 allows 9,936 connections and as many to upstream.
    counts = [0, 1000, 9000]
    subjects = {str(count): subject for count in counts}
    around = {str(count): lambda count=count: settled(subject, count) for count in counts if count}
    try:
        return report("idle connections", compared(subjects, origin, rounds, around=around))
    finally:
        subject.end()


@contextlib.contextmanager
def settled(subject, count, tls=False):
    with loads.idle_connections(subject, count, [0], tls=tls):
        # Idle connections release their buffers, and the allocator returns free memory.
        time.sleep(6)
        yield


def of_kind(title, directory, origin, rounds, kinds, **options):
    """The same load on servers that differ in one thing."""
    subjects = {
        name: Bearward(re.sub(r"\W+", "-", f"{title} {name}"), directory, origin, 1, [1], **given)
        for name, given in kinds.items()
    }
    try:
        return report(title, compared(subjects, origin, rounds, **options))
    finally:
        for subject in subjects.values():
            subject.end()


def memory(directory, origin):
    """PSS at start, and the memory per idle connection after one answer."""
    results = {}
    for kind, name in ((Bearward, "bearward"), (Nginx, "nginx")):
        for tls in (False, True):
            subject = kind(f"memory-{name}-{'tls' if tls else 'plain'}", directory, origin, 1, [1])
            try:
                subject.status("/v1/models", "x")
                time.sleep(3)
                before, count = subject.process.pss_kib(), 4000
                with settled(subject, count, tls=tls):
                    each = (subject.process.pss_kib() - before) * 1024 / count
                time.sleep(6)
                after = subject.process.pss_kib()
            finally:
                subject.end()
            label = f"{name} {'TLS' if tls else 'plain'}"
            results[label] = {"start_kib": before, "bytes_a_connection": each, "after_kib": after}
            print(
                f"memory {label:16} start {before / 1000:5.1f} MB   a connection {each / 1000:5.1f} KB   after {after / 1000:5.1f} MB",
                flush=True,
            )
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    rounds = arguments.rounds
    with tempfile.TemporaryDirectory(prefix="bearward-curves-") as directory:
        directory = pathlib.Path(directory)
        origin = Origin(directory, [0])
        unix = {"TCP": {}, "unix socket": {"endpoint": f"unix:{origin.socket}"}}
        curves = {
            "memory": lambda: memory(directory, origin),
            "connections": lambda: connections(directory, origin, rounds),
            "keys": lambda: of_kind(
                "keys", directory, origin, rounds, {str(n): {"keys": n} for n in (10, 1000, 1_000_000)}, keys=10
            ),
            "all-keys": lambda: of_kind(
                "keys, each in turn", directory, origin, rounds, {str(n): {"keys": n} for n in (1000, 1_000_000)}
            ),
            "routes": lambda: of_kind(
                "routes before the one", directory, origin, rounds, {str(n): {"routes": n} for n in (0, 10, 100, 1000)}
            ),
            "upstream": lambda: of_kind("upstream over", directory, origin, rounds, unix),
            "log": lambda: of_kind("access log", directory, origin, rounds, {"off": {"log": False}, "on": {}}),
        }
        try:
            chosen = arguments.only.split(",") if arguments.only else curves
            results = {name: curves[name]() for name in chosen}
        finally:
            origin.end()
    out = ROOT / "target/bench/curves.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
