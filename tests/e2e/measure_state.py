"""Measurements of the state directory, run by `make measure-state`: memory and journal of a million keys, of which
ten thousand have budgets and are in use, and the delay of requests while the journal is compacted.
"""

import argparse
import asyncio
import hashlib
import json
import pathlib
import sys
import tempfile
import time

from fleet import Stub
from gateway import Gateway

BODY = b'{"model":"m","max_tokens":6}'
MIB = 1 << 20
missed = []


def report(what, figure, is_good):
    print(f"{'ok  ' if is_good else 'FAIL'} {what}: {figure}", flush=True)
    if not is_good:
        missed.append(what)


def key(number):
    return f"sk-{number:08}"


def write_keys(path, count, with_budgets):
    with open(path, "w") as file:
        for number in range(count):
            digest = hashlib.sha256(key(number).encode()).hexdigest()
            fields = {"id": f"key_{number:010}", "name": f"tenant-{number}", "hash": f"sha256:{digest}", "permissions": ["read"]}
            if number < with_budgets:
                fields["budgets"] = [{"tokens": 500_000_000, "every": "month"}, {"requests": 10_000_000, "every": "day"}]
                fields["rate_limits"] = [{"tokens": 4_000_000_000, "per": "1d"}]
            file.write(json.dumps(fields) + "\n")


async def spend(port, keys, rate, seconds, connections=64):
    """Sends requests of all keys in turn, `rate` a second; None for as many as there is room for. Returns the time
    and the delay of each."""
    seen, end, turn = [], time.monotonic() + seconds, iter(range(1 << 62))

    async def connection(place):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        due = time.monotonic() + (place / rate if rate else 0)
        while due < end:
            if rate:
                await asyncio.sleep(max(0, due - time.monotonic()))
                due += connections / rate
            else:
                due = time.monotonic()
            head = (
                f"POST /x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key(next(turn) % keys)}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
            )
            began = time.monotonic()
            writer.write(head.encode() + BODY)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert answer[9:12] == b"200", answer
            length = [line for line in answer.split(b"\r\n") if line.startswith(b"content-length:")]
            await reader.readexactly(int(length[0].split(b":")[1]))
            seen.append((began, time.monotonic() - began))
        writer.close()

    await asyncio.gather(*(connection(place) for place in range(connections)))
    return seen


class Watch:
    """Looks at the journal each 20 ms: its largest size, and when it was replaced."""

    def __init__(self, journal):
        self.journal, self.largest, self.replaced, self.inode = journal, 0, [], None

    async def run(self):
        while True:
            status = self.journal.stat()
            self.largest = max(self.largest, status.st_size)
            if self.inode not in (None, status.st_ino):
                self.replaced.append(time.monotonic())
            self.inode = status.st_ino
            await asyncio.sleep(0.02)


async def watched(journal, load):
    watch = Watch(journal)
    task = asyncio.create_task(watch.run())
    seen = await load
    task.cancel()
    return seen, watch


def p99(delays):
    return sorted(delays)[int(0.99 * len(delays))] if delays else float("nan")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--used", type=int, default=10_000)
    parser.add_argument("--settlements", type=int, default=10_000_000)
    parser.add_argument("--seconds", type=int, default=60, help="of the load while the journal is compacted")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bearward-state-") as name, Stub(b'{"usage":{"prompt_tokens":2,"completion_tokens":6}}') as stub:
        directory = pathlib.Path(name)
        write_keys(directory / "keys.jsonl", options.keys, options.used)
        config = (
            f"keys: {{path: {directory / 'keys.jsonl'}}}\nstate: {{path: {directory / 'state'}}}\nlog: {{access: false}}\nworkers: 1\n"
            "routes: [{name: all, paths: ['/**'], permission: read, model_in: body}]\n"
        )
        journal = directory / "state" / "journal"
        with Gateway(stub.port, {}, config=config, admin=True) as gateway:
            asyncio.run(spend(gateway.port, options.used, None, 3 + options.used / 1500))
            rss = gateway.rss_kib() / 1024
            report(f"memory of {options.keys} keys, {options.used} of them in use with budgets", f"{rss:.0f} MiB", rss <= 300)
            # Each key changes each few seconds, so that the journal grows as fast as it can.
            seen, watch = asyncio.run(watched(journal, spend(gateway.port, options.used, 1000, options.seconds)))
            near = lambda moment: any(-0.2 <= moment - at <= 0.1 for at in watch.replaced)
            during, apart = p99([delay for at, delay in seen if near(at)]), p99([delay for at, delay in seen if not near(at)])
            figure = f"{1000 * during:.1f} ms in {len(watch.replaced)} compactions, {1000 * apart:.1f} ms otherwise"
            report("p99 of a request at 1,000 a second", figure, len(watch.replaced) > 0 and during <= 2 * apart)
            largest, settled, began = watch.largest, len(seen), time.monotonic()
            while settled < options.settlements:
                more, watch = asyncio.run(watched(journal, spend(gateway.port, options.used, None, 20)))
                settled, largest = settled + len(more), max(largest, watch.largest)
            days = sum(path.stat().st_size for path in (directory / "state" / "usage").rglob("journal"))
            figure = f"{largest / MIB:.1f} MiB at most, and {days / MIB:.1f} MiB of usage, in {time.monotonic() - began:.0f} s"
            report(f"journal after {settled} settlements", figure, largest <= 64 * MIB)
            state = gateway.admin_status()["state"]
            report("writes of the state that failed", state["write_failures"], state["write_failures"] == 0)
            print(f"     memory at the end: {gateway.rss_kib() / 1024:.0f} MiB")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
