"""Long measurements of keys in Redis, run by `make measure-shared`.

Measures how soon ten replicas refuse a revoked key, also while a Sentinel group fails over, and the start
and the memory with 100,000 keys. Prints figures, and exits with 1 if one exceeds its promised bound.
"""

import contextlib
import hashlib
import json
import statistics
import sys
import tempfile
import time
import pathlib

from fleet import Stub
from gateway import wait_for
from redis_groups import SentinelGroup
from redis_server import Redis
from test_redis_keys import are_all, create, keys, replicas, readiness

REVOCATIONS, REPLICAS, KEYS = 200, 10, 100_000
failed = []


def report(subject, figure, good):
    print(f"{'ok  ' if good else 'FAIL'} {subject}: {figure}", flush=True)
    if not good:
        failed.append(subject)


def revoke(fleet, name, token, url, *more):
    """Time from the moment at which a revocation is written until all replicas refuse the key, in seconds."""
    wait_for("the revocation is written", lambda: keys("revoke", name, *more, url=url, check=False).returncode == 0)
    written = time.monotonic()
    wait_for("all replicas refuse it", lambda: are_all(fleet, token, 401))
    return time.monotonic() - written


def measure_revocations(stub):
    with SentinelGroup() as group:
        group.wait()
        # The rights of limits do not suffice for keys. This is about times, so any user will do.
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in group.sentinels)
        url = f"redis+sentinel://{hosts}/mymaster"
        tokens = [create(url, f"key-{number}") for number in range(REVOCATIONS)]
        with replicas(REPLICAS, stub, url) as fleet:
            times, waited = [], []
            for number, token in enumerate(tokens):
                if number == REVOCATIONS // 2:
                    group.fail_over()
                if number % 4 == 3:
                    keys("revoke", f"key-{number}", "--wait", url=url)
                    waited.append(are_all(fleet, token, 401))
                    continue
                times.append(revoke(fleet, f"key-{number}", token, url))
    median, longest = statistics.median(times), max(times)
    report(f"{len(times)} revocations, {REPLICAS} replicas, a failover", f"median {median:.3f} s, longest {longest:.3f} s", median <= 0.5 and longest <= 2)
    report(f"{len(waited)} revocations with --wait", f"refused by all on return: {sum(waited)}", all(waited))


def measure_start(stub):
    with Redis() as redis, tempfile.TemporaryDirectory(prefix="bearward-keys-") as directory:
        path = pathlib.Path(directory) / "keys.jsonl"
        with open(path, "w") as file:
            for number in range(KEYS):
                digest = hashlib.sha256(f"secret {number}".encode()).hexdigest()
                entry = {"id": f"key_{number:010d}", "name": f"user-{number}", "hash": f"sha256:{digest}", "permissions": ["read"]}
                file.write(json.dumps(entry) + "\n")
        keys("copy", "--from", str(path), "--to", redis.url)
        figures = {}
        for name, url in (("JSON Lines", str(path)), ("Redis", redis.url)):
            rows = []
            for _ in range(3):
                begun = time.monotonic()
                with replicas(1, stub, url) as [replica]:
                    wait_for("it is ready", lambda: readiness(replica)[0] == 200)
                    rows.append((time.monotonic() - begun, replica.rss_kib()))
            figures[name] = [statistics.median(column) for column in zip(*rows)]
        (_, plain), (seconds, kib) = figures["JSON Lines"], figures["Redis"]
        report(f"start with {KEYS} keys", f"{seconds:.2f} s", seconds <= 5)
        report("memory beside JSON Lines", f"{kib / 1024:.1f} of {plain / 1024:.1f} MiB, {kib / plain:.3f}", kib / plain <= 1.1)


def main():
    with contextlib.ExitStack() as stack:
        stub = stack.enter_context(Stub())
        measure_start(stub)
        measure_revocations(stub)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
