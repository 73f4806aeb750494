"""Several replicas of bearward with the same keys, in front of a stub that notes the time of each request."""

import asyncio
import contextlib
import re
import threading
import time

from gateway import Gateway


class Stub:
    """Server that answers each request with `answer`, and notes when it came."""

    def __init__(self, answer=b'{"usage":{"prompt_tokens":0,"completion_tokens":0}}'):
        self.times, self.in_flight, self.most, self.delay = [], 0, 0, 0
        self.head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(answer)
        self.answer = self.head + answer
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self.serve, "127.0.0.1", 0, backlog=1024), self.loop).result()
        self.port = self.server.sockets[0].getsockname()[1]

    async def serve(self, reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.times.append(time.monotonic())
                self.in_flight += 1
                self.most = max(self.most, self.in_flight)
                length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                await reader.readexactly(int(length[0].split(b":")[1]) if length else 0)
                if self.delay:
                    await asyncio.sleep(self.delay)
                self.in_flight -= 1
                writer.write(self.answer)
        writer.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        asyncio.run_coroutine_threadsafe(self.end(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def end(self):
        self.server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others)


def key_id(key):
    return "key_" + key.split("_")[1]


@contextlib.contextmanager
def fleet(count, upstream, redis_url, limits, more="", config="", permission="read", routes=None, suits=None, secret=None):
    """Replicas that share one key, whose limits are `limits`, and a Redis server. Yields them and the key.

    `redis_url`: `None` for limits of their own; `more`: fields of `shared`; `config`: more of the configuration;
    `permission`: that of the key and of all routes; `routes`: other routes; `suits`: says whether the key may
    be this one; `secret`: the secret of ids.
    """
    with contextlib.ExitStack() as stack:
        shared = f"shared: {{redis: {redis_url}{more}}}\n" if redis_url else ""
        routes = routes or f"[{{name: all, paths: ['/**'], permission: {permission}}}]"
        config = f"routes: {routes}\n{shared}workers: 1\n{config}"
        # Of a dozen random ids, one suits.
        names = ["reader"] if suits is None else [f"reader-{number}" for number in range(12)]
        readers = {name: ["--permissions", permission] for name in names}
        environment = {"BW_ID_SECRET": secret} if secret else {}
        of_keys = ", id_secret: {env: BW_ID_SECRET}" if secret else ""
        first_config = f"keys: {{path: KEYS{of_keys}}}\n{config}"
        first = stack.enter_context(Gateway(upstream, readers, config=first_config, admin=True, environment=environment))
        key = next(key for key in first.tokens.values() if suits is None or suits(key))
        keys = first.path / "keys.yaml"
        keys.write_text(re.sub(rf"^.*\bid: {key_id(key)}$", rf"\g<0>\n    {limits}", keys.read_text(), flags=re.MULTILINE))
        assert first.reload()["success"], first.lines
        config = f"keys: {{path: {keys}{of_keys}}}\n{config}"
        others = [Gateway(upstream, {}, config=config, admin=True, environment=environment) for _ in range(count - 1)]
        [stack.enter_context(other) for other in others]
        yield [first, *others], key


async def offer(replicas, key, rate, seconds, shares=None):
    """Requests at a steady rate over all replicas. Returns the statuses with their times, and the delays."""
    statuses, delays = [], []

    async def connection(port, period, until):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        ask = f"GET /x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
        due = time.monotonic()
        while due < until:
            await asyncio.sleep(max(0, due - time.monotonic()))
            sent = time.monotonic()
            writer.write(ask)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = [line for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
            await reader.readexactly(int(length[0].split(b":")[1]))
            statuses.append((sent, int(head[9:12])))
            delays.append(time.monotonic() - sent)
            due += period
        writer.close()

    shares = shares or [1 / len(replicas)] * len(replicas)
    until, each = time.monotonic() + seconds, 4
    tasks = [
        connection(replica.port, each / (rate * share), until)
        for replica, share in zip(replicas, shares)
        for _ in range(each)
    ]
    await asyncio.gather(*tasks)
    return statuses, sorted(delays)


def excess(times, per_second, burst):
    """How many requests more than the limit allows came in the worst time span."""
    lowest, worst = float("inf"), float("-inf")
    for count, time_ in enumerate(sorted(times)):
        above = count - time_ * per_second
        lowest = min(lowest, above)
        worst = max(worst, above - lowest + 1 - burst)
    return worst
