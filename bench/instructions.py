"""Instructions in user space per request or event, and cache misses, counted by callgrind.

The counts vary less between runs than any time, and exclude the kernel. The misses are those of the
simulated caches of one core, whatever the machine has: code and data that were not touched for a while
are read anew. The profiles stay in target/bench for `callgrind_annotate`.
"""

import argparse
import functools
import pathlib
import re
import shutil
import subprocess
import tempfile
import time

import loads
from subjects import ROOT, Bearward, HaProxy, Nginx, Origin

OUT = ROOT / "target/bench"
# Under valgrind, a server is some 50 times slower. With so few streams it is mostly
# idle, so it reads events one by one.
STREAMS = 8
# The caches of a usual core: 32 KiB of code, 32 KiB of data, and 1 MiB behind both.
CACHES = ["--cache-sim=yes", "--I1=32768,8,64", "--D1=32768,8,64", "--LL=1048576,16,64"]


def under_callgrind(kind):
    """A class of the subject under callgrind. It starts with counting off."""

    class Counted(kind):
        def command(self):
            valgrind = [
                "valgrind",
                "--tool=callgrind",
                "--instr-atstart=no",
                *CACHES,
                f"--callgrind-out-file={self.directory}/out.%p",
            ]
            # Counting can't be switched on in workers that nginx forks.
            alone = ["-g", "master_process off;"] if kind is Nginx else []
            return [*valgrind, *super().command(), *alone]

        def count(self, on):
            for pid in self.process.tree():
                switch = ["callgrind_control", "-i", "on" if on else "off", str(pid)]
                subprocess.run(switch, capture_output=True, timeout=60)

        def counted(self):
            """Events of all its processes by callgrind's names (Ir, I1mr, …), and the largest profile."""
            self.end()
            found = {profile: events_of(profile.read_text()) for profile in self.directory.glob("out.*")}
            sums = {name: sum(events.get(name, 0) for events in found.values()) for name in EVENTS}
            return sums, max(found, key=lambda profile: found[profile].get("Ir", 0))

    return Counted


# Instructions; misses of the cache of code; and misses of the cache behind, by code, reads and writes.
EVENTS = ["Ir", "I1mr", "ILmr", "DLmr", "DLmw"]


def events_of(profile):
    names = re.search(r"^events: (.*)", profile, re.MULTILINE)
    totals = re.search(r"^totals: (.*)", profile, re.MULTILINE)
    return dict(zip(names[1].split(), map(int, totals[1].split()))) if names and totals else {}


def requests_under(subject, seconds, **options):
    """Counts during a load of wrk; returns the number of requests in that time."""
    driving = loads.Wrk(subject, [0], seconds, **options)
    time.sleep(1)
    subject.count(True)
    before = subject.origin.requests()
    time.sleep(seconds - 3)
    requests = subject.origin.requests() - before - 1
    subject.count(False)
    wrong = driving.outcome()["wrong"]
    if wrong or not requests:
        raise SystemExit(f"{subject.name}: {wrong or 'no request was answered'}")
    return requests


def events_under(subject, seconds, command="read"):
    """Counts while streams are open; returns the number of events in that time."""
    with loads.event_reader(subject, [0], seconds, streams=STREAMS, command=command) as lines:
        assert next(lines) == b"begun\n" and next(lines) == b"window\n"
        subject.count(True)
        events, _ = map(int, next(lines).split())
        subject.count(False)
    expected = STREAMS * 100 * seconds
    if not 0.9 * expected < events < 1.1 * expected:
        raise SystemExit(f"{subject.name}: {events} events, not {expected}")
    return events


LOADS = {
    "small GET": requests_under,
    "POST of 1 KiB": functools.partial(requests_under, **loads.POST),
    "connection a request": functools.partial(requests_under, connection='"close"'),
    "event": events_under,
    "chat of 1 KiB": functools.partial(requests_under, **loads.CHAT),
    "chat event": functools.partial(events_under, command="chat"),
}
# Measured with keys that are restricted to models and limited in tokens, too; and once with budgets that a state
# directory keeps.
GUARDED = ["chat of 1 KiB", "chat event"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="some of bearward,nginx,haproxy")
    parser.add_argument("--rows", default="", help="a regular expression that the rows' titles match")
    parser.add_argument("--seconds", type=int, default=10)
    arguments = parser.parse_args()
    kinds = {"bearward": Bearward, "nginx": Nginx, "haproxy": HaProxy}
    OUT.mkdir(parents=True, exist_ok=True)
    rows = [(title, name, {}) for title in LOADS for name in kinds]
    rows += [(title, "bearward", {"guards": True}) for title in GUARDED]
    rows += [("chat of 1 KiB", "bearward", {"guards": True, "kept": True})]
    # Nobody waits for these slots.
    rows += [(title, "bearward", {"queue": 1000}) for title in ("small GET", "POST of 1 KiB")]
    for title, name, options in rows:
        if arguments.only and name not in arguments.only.split(","):
            continue
        if not re.search(arguments.rows, title):
            continue
        with tempfile.TemporaryDirectory(prefix="bearward-bench-") as directory:
            origin = Origin(pathlib.Path(directory), [0])
            subject = under_callgrind(kinds[name])(name, pathlib.Path(directory), origin, 1, [1], **options)
            try:
                units = LOADS[title](subject, arguments.seconds)
                events, profile = subject.counted()
            finally:
                subject.end()
                origin.end()
            how = next((f", {one}" for one in ("kept", "guards", "queue") if one in options), "")
            kept = OUT / f"callgrind.{name}.{title}{how}".replace(", ", "-").replace(" ", "-")
            shutil.copy(profile, kept)
        print(
            f"{title + how:22} {name:9} {events['Ir'] / units / 1000:6.2f}k instructions, {events['I1mr'] / units:5.0f} I1 misses,"
            f" {(events['ILmr'] + events['DLmr'] + events['DLmw']) / units:5.1f} LL misses each ({units} of them; {kept.name})",
            flush=True,
        )


if __name__ == "__main__":
    main()
