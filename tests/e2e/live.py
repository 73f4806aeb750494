"""Changes under load: of keys, certificates, configuration, processes and upstreams.

Each function makes its changes while clients send requests, and returns its counts. `test_live.py`
makes a few changes, `measure_live.py` makes the promised number.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import pathlib
import signal
import socket
import ssl
import subprocess
import sys
import time

import trustme
from gateway import Gateway, binary, issue

HERE = pathlib.Path(__file__).parent


async def read_answer(reader):
    """Status, fields and body of one answer; None if the connection ended before its first byte."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    lines = head.split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    if "chunked" in fields.get("transfer-encoding", ""):
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
    else:
        body = await reader.readexactly(int(fields.get("content-length", 0)))
    return int(lines[0].split(" ")[1]), fields, body


def request(token, path="/v1/models", more=""):
    credential = f"Authorization: Bearer {token}\r\n" if token else ""
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n{credential}{more}\r\n".encode()


class Load:
    """Clients that each repeat one request until stopped, and the counts of their answers."""

    def __init__(self, port, trust=None):
        self.port, self.trust = port, trust
        self.counts, self.failures, self.stopping = {}, [], False

    async def connect(self):
        name = "localhost" if self.trust else None
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=self.trust, server_hostname=name)

    async def asks(self, message, judge, keep=True, pause=0.002):
        """Repeats one request and counts the outcomes.

        `judge(status, fields, body)` returns the outcome of an answer; a failure begins with `!`.
        """
        reader = writer = None
        while not self.stopping:
            outcome = None
            try:
                if writer is None:
                    reader, writer = await self.connect()
                writer.write(message)
                answer = await read_answer(reader)
                if answer is None:
                    outcome, keep_this = "!unanswered", False
                else:
                    outcome = judge(*answer)
                    keep_this = keep and answer[1].get("connection") != "close"
            except (OSError, asyncio.IncompleteReadError) as error:
                outcome, keep_this = f"!{type(error).__name__}", False
            self.counts[outcome] = self.counts.get(outcome, 0) + 1
            if outcome.startswith("!"):
                self.failures.append((round(time.monotonic(), 3), outcome))
            if not keep_this and writer is not None:
                writer.close()
                reader = writer = None
            await asyncio.sleep(pause)
        if writer is not None:
            writer.close()

    @contextlib.asynccontextmanager
    async def of(self, *asking):
        tasks = [asyncio.create_task(ask) for ask in asking]
        try:
            yield self
        finally:
            self.stopping = True
            await asyncio.wait_for(asyncio.gather(*tasks), 30)

    def failed(self):
        return {outcome: count for outcome, count in self.counts.items() if outcome.startswith("!")}


def is_status(expected):
    return lambda status, _fields, _body: "ok" if status == expected else f"!{status}"


class Upstream:
    """Upstream that answers with its name and the path of the request."""

    def __init__(self, name="model"):
        self.name = name

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, backlog=4096)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()

    async def serve(self, reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                body = f"{self.name} {head.split(' ')[1]}".encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


def entry(token, name):
    digest = hashlib.sha256(token.encode()).hexdigest()
    return f"  - id: key_{name}\n    name: {name}\n    hash: sha256:{digest}\n    permissions: [read]\n"


class KeyFile:
    """Key file, with the methods by which people and programs replace its content."""

    def __init__(self, path, head):
        self.path, self.head, self.swaps = path, head, 0

    def content(self, *names):
        return self.head + "".join(entry(f"sk-{name}", name) for name in names)

    async def rename(self, text):
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.rename(self.path)

    async def in_place(self, text):
        with open(self.path, "r+b", buffering=0) as file:
            file.truncate(0)
            data = text.encode()
            for start in range(0, len(data), 97):
                file.write(data[start : start + 97])
                await asyncio.sleep(0.001)

    async def editor(self, text):
        """vim's method: renames the old file to a backup and writes a new one under its name."""
        backup = self.path.with_name(self.path.name + "~")
        self.path.rename(backup)
        await asyncio.sleep(0.005)
        with open(self.path, "wb", buffering=0) as file:
            for start in range(0, len(text), 4096):
                file.write(text[start : start + 4096].encode())
                await asyncio.sleep(0.005)
        backup.unlink()

    async def swap(self, text):
        """The kubelet's method: a new directory, and a swapped symbolic link."""
        directory = self.path.parent
        self.swaps += 1
        before = os.readlink(directory / "..data") if (directory / "..data").is_symlink() else None
        (directory / f"..{self.swaps}").mkdir()
        (directory / f"..{self.swaps}" / self.path.name).write_text(text)
        (directory / "..data_tmp").symlink_to(f"..{self.swaps}")
        (directory / "..data_tmp").rename(directory / "..data")
        if not self.path.is_symlink():
            link = directory / "link"
            link.symlink_to(f"..data/{self.path.name}")
            link.rename(self.path)
        if before:
            (directory / before / self.path.name).unlink()
            (directory / before).rmdir()


async def until_status(port, token, expected, seconds=5):
    """Seconds until a request, repeated on its own connection, has the expected status."""
    started = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while time.monotonic() - started < seconds:
            writer.write(request(token))
            status, _, _ = await read_answer(reader)
            if status == expected:
                return time.monotonic() - started
            await asyncio.sleep(0.005)
    finally:
        writer.close()
    return float("inf")


async def key_changes(changes, interval, connections=64):
    """Key-file changes that each remove one key and add another; other keys must be unaffected."""
    async with Upstream() as upstream:
        with Gateway(upstream.port, {f"k{n}": ["--permissions", "read"] for n in range(8)}) as gateway:
            keys = KeyFile(gateway.path / "keys.yaml", (gateway.path / "keys.yaml").read_text())
            await keys.rename(keys.content("change0"))
            assert await until_status(gateway.port, "sk-change0", 200) < 5
            load = Load(gateway.port)
            tokens = list(gateway.tokens.values())
            asking = [load.asks(request(tokens[n % 8]), is_status(200), pause=0.01) for n in range(connections - 8)]
            asking += [load.asks(request("sk-never"), is_status(401), pause=0.01) for _ in range(8)]
            revoked, added = {}, {}
            async with load.of(*asking):
                for number in range(1, changes + 1):
                    change = (keys.rename, keys.in_place, keys.editor, keys.swap)[number % 4]
                    started = time.monotonic()
                    await change(keys.content(f"change{number}"))
                    gone, there = await asyncio.gather(
                        until_status(gateway.port, f"sk-change{number - 1}", 401),
                        until_status(gateway.port, f"sk-change{number}", 200),
                    )
                    revoked.setdefault(change.__name__, []).append(gone)
                    added.setdefault(change.__name__, []).append(there)
                    await asyncio.sleep(max(0, started + interval - time.monotonic()))
            return load, revoked, added


async def prefixes(dwell, step=1):
    """Every prefix of a key file, written in place; every second one is then completed."""
    async with Upstream() as upstream:
        with Gateway(upstream.port, {"first": ["--permissions", "read"]}) as gateway:
            path = gateway.path / "keys.yaml"
            keys = KeyFile(path, path.read_text())
            whole = keys.content("second", "third")
            path.write_text(whole)
            assert await until_status(gateway.port, "sk-third", 200) < 5
            data, tried = whole.encode(), 0
            load = Load(gateway.port)
            tokens = [gateway.tokens["first"], "sk-second", "sk-third"]
            asking = [load.asks(request(token), is_status(200), pause=0.005) for token in tokens for _ in range(4)]
            async with load.of(*asking):
                for end in range(0, len(data), step):
                    with open(path, "r+b", buffering=0) as file:
                        file.truncate(0)
                        file.write(data[:end])
                        await asyncio.sleep(dwell)
                        if end % 2:
                            file.write(data[end:])
                    tried += 1
                path.write_bytes(data)
                await asyncio.sleep(1)
            return load, tried


async def certificates(rotations, connections=8):
    """Certificate changes under a load of new TLS connections, and at the end a mismatched pair."""
    async with Upstream() as upstream:
        with Gateway(upstream.port, {"ci": ["--permissions", "read"]}, tls=True) as gateway:
            trust = ssl.create_default_context(cafile=gateway.ca)
            load = Load(gateway.port, trust)

            async def served():
                _, writer = await load.connect()
                certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
                writer.close()
                return certificate

            asking = [
                load.asks(request(gateway.tokens["ci"]), is_status(200), keep=False, pause=0.005) for _ in range(connections)
            ]
            slowest = 0
            async with load.of(*asking):
                for _ in range(rotations):
                    before = await served()
                    started = time.monotonic()
                    issue(gateway.authority, gateway.path)
                    while await served() == before:
                        await asyncio.sleep(0.01)
                        assert time.monotonic() - started < 10
                    slowest = max(slowest, time.monotonic() - started)
                good = await served()
                # A key that belongs to another certificate.
                other = gateway.path / "other"
                other.mkdir()
                issue(gateway.authority, other)
                (gateway.path / "tls.key").write_bytes((other / "tls.key").read_bytes())
                while not any("does not belong" in line for line in gateway.lines):
                    await asyncio.sleep(0.01)
                assert await served() == good
                # With its certificate, the new pair is accepted.
                (gateway.path / "tls.crt").write_bytes((other / "tls.crt").read_bytes())
                while await served() == good:
                    await asyncio.sleep(0.01)
            return load, slowest


async def configurations(changes, connections=32):
    """Two alternating configurations with different route, limit and upstream.

    Every answer must come from one of them, never from a mix.
    """
    async with Upstream("one") as one, Upstream("two") as two:
        versions = []
        for upstream, limit, prefix in ((one, 1_000_000, ""), (two, 2_000_000, ", strip_prefix: /v")):
            versions.append(
                f"upstreams: [{{name: {upstream.name}, endpoints: [http://127.0.0.1:{upstream.port}]}}]\n"
                f"rate_limits: [{{requests: {limit}, per: 1m, burst: {limit}}}]\n"
                f"routes: [{{name: {upstream.name}, paths: [/v/**], permission: read{prefix}}}]\n"
            )
        with Gateway(one.port, {"ci": ["--permissions", "read"]}, admin=True) as gateway:
            head = [line for line in gateway.config_text.splitlines() if not line.startswith("upstreams")]

            def write(version):
                new = gateway.path / "new.yaml"
                new.write_text("\n".join([*head, version]))
                new.rename(gateway.path / "bearward.yaml")

            load = Load(gateway.port)
            seen = set()

            def judge(status, fields, body):
                limit = fields.get("ratelimit-policy", "").split(";")[1:2]
                found = (status, limit, body)
                good = ((200, ["q=1000000"], b"one /v/x"), (200, ["q=2000000"], b"two /x"))
                if found in good:
                    seen.add(body)
                    return "ok"
                return f"!{found}"

            write(versions[0])
            answer = await asyncio.to_thread(gateway.reload)
            assert answer["data"]["config"] in ("applied", "unchanged"), answer
            token = gateway.tokens["ci"]
            asking = [load.asks(request(token, "/v/x"), judge, pause=0.005) for _ in range(connections)]
            async with load.of(*asking):
                for number in range(1, changes + 1):
                    write(versions[number % 2])
                    answer = await asyncio.to_thread(gateway.reload)
                    assert answer["success"], answer
                write(versions[0].replace("paths: [/v/**]", "paths: [v]"))
                refused = await asyncio.to_thread(gateway.reload)
            return load, seen, refused


async def stops(times, connections=32):
    """SIGTERM under load: every request is answered, on busy, idle and queued connections."""
    ends, codes, slowest, queued, idle_ends = {}, [], 0, 0, []
    async with Upstream() as upstream:
        for _ in range(times):
            with Gateway(upstream.port, {"ci": ["--permissions", "read"]}) as gateway:
                token = gateway.tokens["ci"]
                load = Load(gateway.port)
                idle_reader, idle_writer = await load.connect()
                idle_writer.write(request(token))
                await read_answer(idle_reader)
                stopped = asyncio.Event()

                async def asks(load=load, token=token, stopped=stopped):
                    """Sends requests until the connection is closed; each must be answered."""
                    reader, writer = await load.connect()
                    while True:
                        writer.write(request(token))
                        answer = await read_answer(reader)
                        if answer is None or answer[0] != 200:
                            return answer and answer[0] or "unanswered"
                        if answer[1].get("connection") == "close":
                            return "closed" if await reader.read() == b"" and stopped.is_set() else "bytes behind"

                async def queues(load=load, token=token):
                    reader, writer = await load.connect()
                    writer.write(request(token))
                    answer = await read_answer(reader)
                    return "closed" if answer and answer[0] == 200 else answer and answer[0] or "unanswered"

                tasks = [asyncio.create_task(asks()) for _ in range(connections)]
                await asyncio.sleep(0.1)
                # While the process is paused, connections queue in the kernel.
                gateway.process.send_signal(signal.SIGSTOP)
                waiting = [asyncio.create_task(queues()) for _ in range(16)]
                await asyncio.sleep(0.05)
                stopped.set()
                started = time.monotonic()
                gateway.process.terminate()
                gateway.process.send_signal(signal.SIGCONT)
                for ended in await asyncio.wait_for(asyncio.gather(*tasks, *waiting, return_exceptions=True), 30):
                    end = ended if isinstance(ended, str) else repr(ended)
                    ends[end] = ends.get(end, 0) + 1
                queued += len(waiting)
                idle_ends.append(await idle_reader.read())
                codes.append(await asyncio.to_thread(gateway.process.wait, 30))
                slowest = max(slowest, time.monotonic() - started)
    return ends, codes, slowest, queued, idle_ends


async def restarts(times, connections=16):
    """Restarts with socket activation: the listening socket stays open across processes."""
    async with Upstream() as upstream:
        with socket.create_server(("127.0.0.1", 0), backlog=4096) as listening:
            address = f"127.0.0.1:{listening.getsockname()[1]}"
            with Gateway(upstream.port, {"ci": ["--permissions", "read"]}, listener=address, fds=[listening]) as gateway:
                load = Load(gateway.port)
                token = gateway.tokens["ci"]
                asking = [load.asks(request(token), is_status(200), keep=False) for _ in range(connections)]
                asking += [load.asks(request(token), is_status(200)) for _ in range(connections)]
                codes = []
                async with load.of(*asking):
                    for number in range(times):
                        await asyncio.sleep(0.3)
                        old = gateway.process
                        if number % 2:
                            # As with `systemctl restart`: start only after the old process ended.
                            old.terminate()
                            codes.append(await asyncio.to_thread(old.wait, 30))
                            await asyncio.to_thread(gateway.start)
                        else:
                            await asyncio.to_thread(gateway.start)
                            old.terminate()
                            codes.append(await asyncio.to_thread(old.wait, 30))
                    await asyncio.sleep(0.3)
                return load, codes


ENDPOINT = """
import asyncio, sys
async def serve(reader, writer):
    try:
        while True:
            await reader.readuntil(b"\\r\\n\\r\\n")
            await asyncio.sleep(0.005)
            writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 5\\r\\n\\r\\n" + sys.argv[1].rjust(5).encode())
    except (OSError, asyncio.IncompleteReadError):
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    print("ready", flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


def endpoint(port):
    process = subprocess.Popen([sys.executable, "-c", ENDPOINT, str(port)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    process.stdout.readline()
    return process


async def killed_endpoint(ports, times=1, connections=32, balance="least_requests"):
    """Kills one of three endpoints under load and starts it again."""
    processes = {port: endpoint(port) for port in ports}
    endpoints = ", ".join(f"http://127.0.0.1:{port}" for port in ports)
    back, failed = [], []
    try:
        with Gateway(endpoints, {"ci": ["--permissions", "read"]}, fields=f", balance: {balance}") as gateway:
            load = Load(gateway.port)
            last_seen = {}

            def judge(status, _fields, body):
                if status == 200:
                    last_seen[int(body)] = time.monotonic()
                    return "ok"
                return f"!{status} {json.loads(body)['error']['code']}"

            asking = [load.asks(request(gateway.tokens["ci"]), judge, pause=0.001) for _ in range(connections)]
            async with load.of(*asking):
                for number in range(times):
                    await asyncio.sleep(0.5)
                    victim = ports[number % len(ports)]
                    before = len(load.failures)
                    killed = time.monotonic()
                    processes[victim].kill()
                    processes[victim].wait()
                    await asyncio.sleep(1.5)
                    # Milliseconds after the kill. Only requests in flight at that moment may fail.
                    failed += [(when - killed) * 1000 for when, _ in load.failures[before:]]
                    processes[victim] = await asyncio.to_thread(endpoint, victim)
                    returned = time.monotonic()
                    while last_seen.get(victim, 0) < returned:
                        await asyncio.sleep(0.01)
                        assert time.monotonic() - returned < 30
                    back.append(time.monotonic() - returned)
            return load, failed, back
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
            process.stdout.close()
