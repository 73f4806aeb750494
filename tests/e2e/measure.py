"""Long measurements of the real binary, run by `make measure`.

Measures the latency added to streams, bodies of 2 GiB in both directions, limits against the real
clock, permits, and how soon upstream sees a client disconnect. Prints figures, and exits with 1 if
one exceeds its promised bound.
"""

import asyncio
import hashlib
import os
import random
import ssl
import statistics
import sys
import time

from gateway import Gateway, free_port

GIB = 1 << 30
BLOCK = random.Random(7).randbytes(1 << 20)
failed = []


def report(subject, figure, good):
    print(f"{'ok  ' if good else 'FAIL'} {subject}: {figure}", flush=True)
    if not good:
        failed.append(subject)


async def read_head(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
    return head, fields


class Upstream:
    """Upstream that streams events, takes and sends large bodies, and records disconnects."""

    def __init__(self):
        self.sent = 0
        self.gone = asyncio.Queue()

    async def start(self):
        self.port = free_port()
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port, limit=1 << 20)
        return self

    async def serve(self, reader, writer):
        try:
            while True:
                head, fields = await read_head(reader)
                path = head.split(" ")[1]
                await getattr(self, path.rsplit("/", 1)[1])(reader, writer, fields)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def plain(self, _reader, writer, _fields):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")

    async def events(self, _reader, writer, _fields):
        """An event every 10 ms, with the time at which it was sent."""
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        started = time.monotonic()
        for number in range(1, 401):
            await asyncio.sleep(max(0, started + number * 0.01 - time.monotonic()))
            event = b"data: %d\n\n" % time.monotonic_ns()
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
        writer.write(b"0\r\n\r\n")

    async def upload(self, reader, writer, fields):
        digest, left = hashlib.sha256(), int(fields["content-length"])
        while left:
            data = await reader.read(min(left, 1 << 20))
            if not data:
                raise OSError("cut")
            digest.update(data)
            left -= len(data)
        body = digest.hexdigest().encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))

    async def download(self, _reader, writer, _fields):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (2 * GIB))
        self.sent = 0
        for _ in range(2 * GIB // len(BLOCK)):
            writer.write(BLOCK)
            await writer.drain()
            self.sent += len(BLOCK)

    async def endless(self, reader, writer, _fields):
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await reader.read(1)
        await self.gone.put(time.monotonic())
        raise OSError("the client left")


async def connect(port, ca=None):
    trust = ssl.create_default_context(cafile=ca) if ca else None
    return await asyncio.open_connection("localhost", port, limit=1 << 20, ssl=trust)


def get(path, token, method="GET", more=""):
    return f"{method} /v1/models/{path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n{more}\r\n".encode()


async def stream_latencies(port, token, ca):
    """Delays of one stream in milliseconds, from the time in each event to its arrival."""
    reader, writer = await connect(port, ca)
    writer.write(get("events", token))
    await read_head(reader)
    delays = []
    while size := int(await reader.readline(), 16):
        event = await reader.readexactly(size + 2)
        delays.append((time.monotonic_ns() - int(event[6:-4])) / 1e6)
    writer.close()
    return delays


async def added_latency(upstream, gateway, token):
    """Latency of 64 concurrent streams, alternately direct and through bearward."""
    figures = {"direct": [], "through": []}
    for _ in range(3):
        for route, port, ca in (("direct", upstream.port, None), ("through", gateway.port, gateway.ca)):
            streams = await asyncio.gather(*(stream_latencies(port, token, ca) for _ in range(64)))
            figures[route] += [delay for stream in streams for delay in stream]
    median = {route: statistics.median(delays) for route, delays in figures.items()}
    p99 = {route: statistics.quantiles(delays, n=100)[98] for route, delays in figures.items()}
    added = median["through"] - median["direct"], p99["through"] - p99["direct"]
    transport = "over TLS" if gateway.ca else "plain"
    report(f"64 streams of 10 ms events, {transport}, added: median, p99", "%.2f ms, %.2f ms" % added, added[0] <= 2 and added[1] <= 10)
    print(f"     direct {median['direct']:.2f} / {p99['direct']:.2f} ms, through {median['through']:.2f} / {p99['through']:.2f} ms")


async def large_bodies(upstream, gateway, token):
    reader, writer = await connect(gateway.port)
    writer.write(get("plain", token))
    await read_head(reader)
    await reader.readexactly(2)
    before, most = gateway.rss_kib(), 0
    blocks = 2 * GIB // len(BLOCK)
    expected = hashlib.sha256()

    writer.write(get("upload", token, "GET", f"Content-Length: {2 * GIB}\r\n"))
    for number in range(blocks):
        writer.write(BLOCK)
        await writer.drain()
        expected.update(BLOCK)
        if number % 64 == 0:
            most = max(most, gateway.rss_kib())
    _, fields = await read_head(reader)
    answer = (await reader.readexactly(int(fields["content-length"]))).decode()
    report("2 GiB up, hashes equal", answer == expected.hexdigest(), answer == expected.hexdigest())

    writer.write(get("download", token))
    _, fields = await read_head(reader)
    received, left = hashlib.sha256(), int(fields["content-length"])
    while left:
        data = await reader.read(min(left, 1 << 20))
        assert data, "cut"
        received.update(data)
        left -= len(data)
        if left % (64 << 20) < (1 << 20):
            most = max(most, gateway.rss_kib())
    same = received.digest() == expected.digest()
    report("2 GiB down, hashes equal", same, same)
    grown = (max(most, gateway.rss_kib()) - before) / 1024
    report("memory grown by it", f"{grown:.1f} MiB", grown <= 30)
    writer.close()


async def stopped_reader(upstream, gateway, token):
    reader, writer = await connect(gateway.port)
    writer.write(get("download", token))
    await read_head(reader)
    writer.transport.pause_reading()
    last, still = -1, 0
    while still < 20:
        await asyncio.sleep(0.05)
        still = still + 1 if upstream.sent == last else 0
        last = upstream.sent
    report("taken from upstream for a client that stopped reading", f"{last / (1 << 20):.1f} MiB", last <= 32 << 20)
    writer.transport.abort()


async def leaving(upstream, gateway, token):
    while not upstream.gone.empty():
        upstream.gone.get_nowait()
    delays = []
    for _ in range(50):
        reader, writer = await connect(gateway.port, gateway.ca)
        writer.write(get("endless", token))
        await read_head(reader)
        await reader.readexactly(10)
        left = time.monotonic()
        writer.transport.abort()
        delays.append((await upstream.gone.get() - left) * 1000)
    report(f"upstream sees a client leave{' over TLS' if gateway.ca else ''} within", f"{max(delays):.1f} ms (median {statistics.median(delays):.1f})", max(delays) <= 100)


async def hammered(gateway, token):
    """16 connections for 20 s against a limit of 60 per minute with a burst of 10."""
    end = time.monotonic() + 20
    granted = 0

    async def caller():
        nonlocal granted
        reader, writer = await connect(gateway.port)
        while time.monotonic() < end:
            writer.write(get("plain", token))
            head, fields = await read_head(reader)
            await reader.readexactly(int(fields["content-length"]))
            granted += " 200 " in head.split("\r\n")[0] + " "
            await asyncio.sleep(0.002)
        writer.close()

    await asyncio.gather(*(caller() for _ in range(16)))
    report("granted of 60/min, burst 10, in 20 s", granted, 29 <= granted <= 31)


async def permits(upstream, gateway, token):
    """1,000 clients that disconnect in mid-stream; afterwards all four permits must be free."""
    for _ in range(250):
        streams = []
        for _ in range(4):
            reader, writer = await connect(gateway.port)
            writer.write(get("endless", token))
            head, _ = await read_head(reader)
            assert " 200 " in head.split("\r\n")[0], head
            streams.append(writer)
        for writer in streams:
            writer.transport.abort()
        for _ in streams:
            await upstream.gone.get()
        # Upstream has seen the disconnect; the permit is released just before or just after that.
        await asyncio.sleep(0.005)
    streams, statuses = [], []
    for _ in range(5):
        reader, writer = await connect(gateway.port)
        writer.write(get("endless", token))
        statuses.append((await read_head(reader))[0].split(" ")[1])
        streams.append(writer)
    report("after 1,000 clients that left, of 4 permits", statuses, statuses == ["200"] * 4 + ["429"])
    for writer in streams[:4]:
        writer.transport.abort()
        await upstream.gone.get()


async def believing(gateway, token):
    """A client that obeys the RateLimit headers is never refused, against the real clock."""
    reader, writer = await connect(gateway.port)
    asked = refused = 0
    end = time.monotonic() + 15
    while time.monotonic() < end:
        writer.write(get("plain", token))
        head, fields = await read_head(reader)
        await reader.readexactly(int(fields["content-length"]))
        asked += 1
        refused += " 200 " not in head.split("\r\n")[0] + " "
        windows = [dict(part.split("=") for part in item.split(";")[1:]) for item in fields["ratelimit"].split(", ")]
        if min(int(window["r"]) for window in windows) == 0:
            await asyncio.sleep(max(int(window["t"]) for window in windows if window["r"] == "0"))
    report("believing the headers: asked, refused", f"{asked}, {refused}", refused == 0 and asked > 20)
    writer.close()


async def main():
    upstream = await Upstream().start()
    keys = {
        "free": ["--permissions", "read"],
        "limited": ["--permissions", "read", "--rate", "60/1m/10"],
        "two": ["--permissions", "read", "--rate", "50/10s/5", "--rate", "300/1m/20"],
        "four": ["--permissions", "read", "--max-concurrent", "4"],
    }
    config = "limits: {body_bytes: 4GiB}\nlog: {access: false}\n"
    with Gateway(upstream.port, keys, config=config) as gateway:
        print(f"{os.cpu_count()} cores; the binary: {gateway.process.args[0]}")
        tokens = gateway.tokens
        await hammered(gateway, tokens["limited"])
        await believing(gateway, tokens["two"])
        await leaving(upstream, gateway, tokens["free"])
        await permits(upstream, gateway, tokens["four"])
        await added_latency(upstream, gateway, tokens["free"])
        await stopped_reader(upstream, gateway, tokens["free"])
        await large_bodies(upstream, gateway, tokens["free"])
    with Gateway(upstream.port, {"free": keys["free"]}, config=config, tls=True) as gateway:
        await added_latency(upstream, gateway, gateway.tokens["free"])
        await leaving(upstream, gateway, gateway.tokens["free"])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
