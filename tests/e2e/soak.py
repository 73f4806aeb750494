"""Soak test of all kinds of traffic at once: `make soak MINUTES=n`.

Runs good clients of every protocol, bad keys, reloads, failing upstreams and abusive clients.
Prints a table of wrong answers and of leaks.

Each good client knows the one right answer to its request. Only a failing upstream may cost an
answer: it becomes a 502, or a body that is recognisably cut.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import signal
import ssl
import sys
import time

import h2.config
import h2.connection
import h2.events
import httpx
import websockets
from gateway import Gateway, free_port
from live import entry, read_answer, request

KEYS = {
    "ci": ["--permissions", "read,write"],
    "reader": ["--permissions", "read"],
    "few": ["--permissions", "read", "--max-concurrent", "4"],
    "tight": ["--permissions", "read", "--rate", "5/1m"],
}
CONFIG = """
routes:
  - {name: socket, paths: [/socket], permission: read, upstream: sockets, upgrades: [websocket]}
  - {name: write, paths: [/post], methods: [POST], permission: write}
  - {name: rest, paths: [/**], permission: read}
limits: {header_timeout: 2s, idle_timeout: 5s, body_idle_timeout: 5s, in_flight: 500}
failed_attempts: off
"""
# Statuses that a failing upstream may cause.
MAY_BREAK = {502, 504}


class Model:
    """Upstream with predictable answers that can be stopped and started again."""

    def __init__(self):
        self.port, self.server, self.writers = free_port(), None, set()

    async def start(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port, reuse_port=True)

    async def die(self):
        self.server.close()
        for writer in list(self.writers):
            writer.transport.abort()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self.server.wait_closed(), 1)

    async def serve(self, reader, writer):
        self.writers.add(writer)
        try:
            while True:
                await self.answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError, ValueError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()

    async def answer(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        path = head.split(" ")[1]
        body = await read_body(head, reader)
        if path == "/post":
            await send(writer, hashlib.sha256(body).hexdigest().encode())
        elif path.startswith("/size/"):
            await send(writer, pattern(int(path[6:])))
        elif path == "/events":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            for number in range(20):
                event = f"data: {number}\n\n".encode()
                writer.write(b"%x\r\n%s\r\n" % (len(event), event))
                await writer.drain()
                await asyncio.sleep(0.01)
            writer.write(b"0\r\n\r\n")
        elif path == "/cut":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf")
            await writer.drain()
            raise OSError
        elif path == "/interim":
            writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * 3)
            await send(writer, b"after")
        elif path == "/nonsense":
            writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
            await writer.drain()
            raise OSError
        elif path == "/hold":
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            while True:
                writer.write(b"1\r\nx\r\n")
                await writer.drain()
                await asyncio.sleep(0.05)
        else:
            await send(writer, path.encode())


async def read_body(head, reader):
    lower = head.lower()
    if "transfer-encoding: chunked" in lower:
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
        return body
    if "content-length: " in lower:
        return await reader.readexactly(int(lower.split("content-length: ")[1].split("\r\n")[0]))
    return b""


async def send(writer, body):
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body))
    for start in range(0, len(body), 65536):
        writer.write(body[start : start + 65536])
        await writer.drain()


def pattern(size):
    return (b"0123456789abcdef" * (size // 16 + 1))[:size]


async def echo(websocket):
    with contextlib.suppress(websockets.ConnectionClosed):
        async for message in websocket:
            await websocket.send(message)


class Soak:
    def __init__(self, gateway, models, trust):
        self.gateway, self.models, self.trust = gateway, models, trust
        self.port, self.tls_port = gateway.plain_port, gateway.port
        self.right, self.allowed, self.wrong, self.abuse = {}, {}, {}, 0
        self.samples, self.stopping = [], False

    def note(self, kind, verdict, detail=None):
        book = {True: self.right, None: self.allowed, False: self.wrong}[verdict]
        book[kind] = book.get(kind, 0) + 1
        if verdict is False and len(self.samples) < 20:
            self.samples.append(f"{kind}: {detail}")

    async def forever(self, kind, once, pause=0.0):
        """Repeats `once` until the end. A connection may break if `once` raises `Broke`."""
        while not self.stopping:
            try:
                async with asyncio.timeout(20):
                    await once()
            except Broke as broke:
                self.note(kind, None, broke)
            except Exception as error:  # noqa: BLE001 - every exception is reported
                self.note(kind, False, repr(error))
            await asyncio.sleep(pause)

    # Good clients.

    async def http1(self, kind, message, expected):
        """Sends up to 20 requests on one connection and checks each answer's body."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for _ in range(20):
                writer.write(message)
                try:
                    answer = await read_answer(reader)
                except (OSError, asyncio.IncompleteReadError, ValueError) as error:
                    # ValueError: a chunk without a size.
                    raise Broke from error
                if answer is None:
                    # No byte of an answer: only an upstream that broke off causes this.
                    raise Broke
                status, fields, body = answer
                if status in MAY_BREAK:
                    self.note(kind, None)
                elif status == 503:
                    self.note(kind, False, body)
                else:
                    self.note(kind, status == 200 and body == expected, (status, body[:200]))
                if fields.get("connection") == "close":
                    return
        finally:
            writer.close()

    async def gets(self):
        await self.http1("get", request(self.gateway.tokens["reader"], "/hello"), b"/hello")

    async def interim(self):
        await self.http1("behind 103", request(self.gateway.tokens["reader"], "/interim"), b"after")

    async def events(self):
        expected = "".join(f"data: {number}\n\n" for number in range(20)).encode()
        await self.http1("events", request(self.gateway.tokens["reader"], "/events"), expected)

    async def posts(self):
        body = os.urandom(random.choice([0, 1, 1000, 100_000]))
        head = f"POST /post HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {self.gateway.tokens['ci']}\r\n".encode()
        if random.random() < 0.5:
            message = head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        else:
            pieces = [body[start : start + 7000] for start in range(0, len(body), 7000)]
            chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
            message = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
        await self.http1("post", message, hashlib.sha256(body).hexdigest().encode())

    async def http2(self):
        async with httpx.AsyncClient(http2=True, verify=self.trust, timeout=15) as client:
            url = f"https://localhost:{self.tls_port}"
            headers = {"authorization": f"Bearer {self.gateway.tokens['ci']}"}
            for _ in range(5):
                size = random.choice([10, 5000, 300_000])
                asked = [client.get(f"{url}/size/{size}", headers=headers) for _ in range(4)]
                asked.append(client.post(f"{url}/post", headers=headers, content=pattern(size)))
                for number, answer in enumerate(await asyncio.gather(*asked, return_exceptions=True)):
                    if isinstance(answer, httpx.HTTPError) or getattr(answer, "status_code", 0) in MAY_BREAK:
                        self.note("http/2", None)
                        continue
                    whole = pattern(size) if number < 4 else hashlib.sha256(pattern(size)).hexdigest().encode()
                    right = getattr(answer, "status_code", 0) == 200 and answer.content == whole
                    self.note("http/2", right, repr(answer))

    async def sockets(self):
        url = f"ws://127.0.0.1:{self.port}/socket"
        headers = {"authorization": f"Bearer {self.gateway.tokens['reader']}"}
        async with websockets.connect(url, additional_headers=headers, proxy=None) as socket:
            for number in range(20):
                await socket.send(f"message {number}")
                self.note("websocket", await socket.recv() == f"message {number}")

    async def refusals(self):
        tokens = self.gateway.tokens
        cases = [
            (request("", "/x"), 401),
            (request("sk-wrong", "/x"), 401),
            (request(tokens["reader"], "/post").replace(b"GET", b"POST"), 403),
            (request(tokens["ci"], "/a%2fb"), 400),
            (request(tokens["ci"], "/x", "X-Y: " + "z" * 40_000 + "\r\n"), 431),
            (request(tokens["ci"], "/" + "x" * 9000), 414),
            (b"GET /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 400),
        ]
        message, expected = random.choice(cases)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(message)
            status, _, body = await read_answer(reader)
            answer = json.loads(body)
            self.note("refusal", status == expected and answer["success"] is False, (status, expected, body))
        finally:
            writer.close()

    async def limited(self):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request(self.gateway.tokens["tight"], "/x"))
            status, fields, _ = await read_answer(reader)
            self.note("limit", status in {200, 429, *MAY_BREAK} and "ratelimit" in fields, (status, fields))
        finally:
            writer.close()

    async def broken_upstreams(self):
        path, statuses = random.choice([("/cut", {200, 502}), ("/nonsense", {502})])
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request(self.gateway.tokens["reader"], path))
            try:
                answer = await read_answer(reader)
            except asyncio.IncompleteReadError:
                self.note("broken upstream", path == "/cut", "cut")
                return
            # Upstream never gave a complete answer, so a complete 200 is wrong.
            status = answer[0] if answer else None
            self.note("broken upstream", answer is None or status in statuses - {200}, answer)
        finally:
            writer.close()

    # Clients that disconnect, and abusive clients.

    async def leaves(self):
        """Holds one of the key's four permits for a moment, then aborts the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request(self.gateway.tokens["few"], "/hold") + random.choice([b"", b"G"]))
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head.split(b" ")[1])
            self.note("left", status in {200, 429, *MAY_BREAK}, head)
            await asyncio.sleep(random.random() * 0.2)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise Broke from error
        finally:
            writer.transport.abort()

    async def abuses(self):
        self.abuse += 1
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        token = self.gateway.tokens["ci"]
        post = f"POST /post HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n"
        messages = [
            b"",
            os.urandom(2000),
            b"GET / HT",
            (post + "Content-Length: 1000\r\n\r\nhalf").encode(),
            (post + "Transfer-Encoding: chunked\r\n\r\nzz\r\n").encode(),
            (post + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello").encode(),
            request(token, "/size/3000000"),
            b"\x16\x03\x01\x02\x00\x01\x00",
            floods(token),
        ]
        try:
            writer.write(random.choice(messages))
            with contextlib.suppress(TimeoutError, OSError):
                await asyncio.wait_for(reader.read(1), random.random() * 3)
                await asyncio.sleep(random.random())
        except OSError:
            pass
        finally:
            writer.transport.abort()

    # Changes.

    async def reloads(self):
        path = self.gateway.path / "keys.yaml"
        text = self.gateway.good_keys
        new = path.with_suffix(".new")
        new.write_text(random.choice([text, text + entry(f"sk-{time.monotonic_ns()}", "more"), "keys: [nonsense"]))
        new.rename(path)
        if random.random() < 0.3:
            self.gateway.process.send_signal(signal.SIGHUP)
        await asyncio.sleep(0.5)

    async def deaths(self):
        model = random.choice(self.models)
        await asyncio.sleep(2)
        await model.die()
        await asyncio.sleep(0.5)
        await model.start()

    async def run(self, seconds):
        """Runs the whole mix for this time, then ends all clients and restores the keys."""
        self.stopping = False
        mix = [
            *[(kind, 3, 0.01) for kind in ("gets", "posts", "http2")],
            *[(kind, 2, 0.05) for kind in ("events", "interim", "sockets", "refusals", "broken_upstreams")],
            ("limited", 1, 0.3),
            ("leaves", 4, 0.02),
            ("abuses", 6, 0.02),
            ("reloads", 1, 0.0),
            ("deaths", 1, 0.0),
        ]
        tasks = [
            asyncio.create_task(self.forever(name, getattr(self, name), pause))
            for name, count, pause in mix
            for _ in range(count)
        ]
        await asyncio.sleep(seconds)
        self.stopping = True
        await asyncio.wait(tasks, timeout=40)
        for task in tasks:
            task.cancel()
        (self.gateway.path / "keys.yaml").write_text(self.gateway.good_keys)

    async def settled(self):
        """Number of descriptors and memory in KiB, once the process has released all of the mix."""
        least, since = None, time.monotonic()
        while time.monotonic() - since < 8:
            now = len(os.listdir(f"/proc/{self.gateway.process.pid}/fd"))
            if least is None or now < least:
                least, since = now, time.monotonic()
            await asyncio.sleep(0.2)
        return least, self.gateway.rss_kib()

    async def leaked_permits(self):
        """Number of the key's four permits that were not released."""
        held = []
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(request(self.gateway.tokens["few"], "/hold"))
            held.append((int((await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]), writer))
        for _, writer in held:
            writer.transport.abort()
        granted = sum(status == 200 for status, _ in held)
        assert granted <= 4, held
        return 4 - granted


class Broke(Exception):
    """Raised when a connection breaks in a case that a failing upstream may cause."""


def floods(token):
    """Bytes of a hundred streams that are opened and reset, and of many pings."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    for number in range(100):
        fields = [(":method", "GET"), (":scheme", "http"), (":path", "/x"), (":authority", "a")]
        connection.send_headers(2 * number + 1, [*fields, ("authorization", f"Bearer {token}")], end_stream=True)
        connection.reset_stream(2 * number + 1)
    for _ in range(random.choice([10, 3000])):
        connection.ping(b"12345678")
    return connection.data_to_send()


async def soak(minutes, warm_up):
    models = [Model(), Model()]
    sockets = await websockets.serve(echo, "127.0.0.1", 0)
    socket_port = sockets.sockets[0].getsockname()[1]
    for model in models:
        await model.start()
    endpoints = ", ".join(f"http://127.0.0.1:{model.port}" for model in models)
    more = f"}}, {{name: sockets, endpoints: [http://127.0.0.1:{socket_port}]"
    with Gateway(endpoints, KEYS, tls=True, config=CONFIG, fields=more, plain_too=True) as gateway:
        gateway.good_keys = (gateway.path / "keys.yaml").read_text()
        trust = ssl.create_default_context(cafile=gateway.ca)
        run = Soak(gateway, models, trust)
        await run.run(warm_up)
        started = await run.settled()
        run.right, run.allowed, run.wrong, run.samples, run.abuse = {}, {}, {}, [], 0
        await run.run(minutes * 60)
        ended = await run.settled()
        leaked = await run.leaked_permits()
        alive = gateway.process.poll() is None
        panics = sum('"a panic"' in line for line in gateway.lines)
    sockets.close()
    return report(run, started, ended, leaked, alive, panics)


def report(run, started, ended, leaked, alive, panics):
    kinds = sorted({*run.right, *run.allowed, *run.wrong})
    print(f"{'':18}{'right':>10}{'upstream broke':>16}{'wrong':>8}")
    for kind in kinds:
        right, allowed, wrong = (book.get(kind, 0) for book in (run.right, run.allowed, run.wrong))
        print(f"{kind:18}{right:>10}{allowed:>16}{wrong:>8}")
    print(f"{'abusive clients':18}{run.abuse:>10}")
    totals = [sum(book.values()) for book in (run.right, run.allowed, run.wrong)]
    print(f"{'in all':18}{totals[0]:>10}{totals[1]:>16}{totals[2]:>8}\n")
    print(f"{'':18}{'warmed up':>10}{'at the end':>16}")
    print(f"{'descriptors':18}{started[0]:>10}{ended[0]:>16}")
    print(f"{'RSS, KiB':18}{started[1]:>10}{ended[1]:>16}")
    print(f"{'leaked permits':18}{'':>10}{leaked:>16}")
    print(f"{'panics':18}{'':>10}{panics:>16}")
    for sample in run.samples:
        print("wrong:", sample)
    faults = []
    if totals[2]:
        faults.append(f"{totals[2]} wrong answers")
    if leaked:
        faults.append(f"{leaked} leaked permits")
    if ended[0] > started[0]:
        faults.append(f"{ended[0] - started[0]} leaked descriptors")
    if ended[1] > started[1] + 5 * 1024:
        faults.append(f"{(ended[1] - started[1]) // 1024} MiB more memory than after the warm-up")
    if panics or not alive:
        faults.append("the process panicked or ended")
    missing = [kind for kind in ("get", "post", "http/2", "events", "websocket", "refusal") if not run.right.get(kind)]
    if missing:
        faults.append(f"no right answer of {missing}")
    print("\n" + ("; ".join(faults) or "no wrong answers, no leaks"))
    return faults


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--warm-up", type=float, default=60, help="seconds")
    arguments = parser.parse_args()
    sys.exit(bool(asyncio.run(soak(arguments.minutes, arguments.warm_up))))
