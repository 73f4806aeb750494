"""Long measurements of changes under load, run by `make measure`.

Exits with 1 if a figure exceeds its promised bound.
"""

import asyncio
import statistics
import sys
import time

import live
from gateway import free_port

missed = []


def report(subject, figure, good):
    print(f"{'ok  ' if good else 'FAIL'} {subject}: {figure}", flush=True)
    if not good:
        missed.append(subject)


def asked(load):
    return f"{sum(load.counts.values())} requests, failed: {load.failed() or 'none'}"


async def main():
    started = time.monotonic()
    load, revoked, added = await live.key_changes(200, 0)
    report(f"200 key-file changes in {time.monotonic() - started:.0f} s, 64 connections", asked(load), not load.failed())
    for method in revoked:
        slowest = max(revoked[method]), max(added[method])
        figure = f"{slowest[0]:.2f} s, {slowest[1]:.2f} s (median {statistics.median(revoked[method]):.2f} s)"
        report(f"  by {method}: slowest revocation, slowest new key", figure, max(slowest) <= 1)

    load, tried = await live.prefixes(dwell=0.15)
    report(f"{tried} beginnings of a key file, written in place", asked(load), not load.failed())

    load, slowest = await live.certificates(50)
    report("50 certificate rotations, new TLS connections", f"{asked(load)}; slowest {slowest:.2f} s", not load.failed())

    load, seen, refused = await live.configurations(50)
    report("50 changes of routes, limits and upstream", asked(load), not load.failed() and len(seen) == 2)
    faults = refused["error"]["details"]["faults"]
    report("a bad one is refused", f"{faults[0]['line']}:{faults[0]['column']}: {faults[0]['message']}", len(faults) == 1)

    ends, codes, slowest, queued, idle = await live.stops(20)
    good = set(ends) == {"closed"} and set(codes) == {0} and set(idle) == {b""}
    report(f"20 times SIGTERM under load, {queued} of them queued", f"{ends}, exit codes {set(codes)}, slowest {slowest:.2f} s", good)

    load, codes = await live.restarts(10)
    report("10 restarts with socket activation", f"{asked(load)}; exit codes {set(codes)}", not load.failed() and set(codes) == {0})

    for balance in ("least_requests", "round_robin"):
        load, failed, back = await live.killed_endpoint([free_port() for _ in range(3)], times=5, balance=balance)
        late = [when for when in failed if when > 100]
        figure = f"{asked(load)}, the last one {max(failed, default=0):.0f} ms after a kill; back in use after {max(back):.2f} s"
        report(f"kill -9 of one of three endpoints, 5 times, {balance}", figure, not late and max(back) <= 5)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
