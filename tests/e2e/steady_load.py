"""A steady load on several replicas, which goes on until a test has seen enough."""

import asyncio
import contextlib
import threading
import time
import typing


class Seen(typing.NamedTuple):
    sent: float
    status: int
    seconds: float
    replica: int


class SteadyLoad:
    """Sends `rate` requests a second in all, evenly to `ports`, inside a `with` block.

    `seen`: the answers. `lag`: the longest time by which this process itself was late, in seconds.
    """

    def __init__(self, ports, key, rate, connections=4):
        self.ports, self.rate, self.connections = ports, rate, connections
        self.ask = f"GET /x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
        self.seen, self.lag, self.has_ended = [], 0, False

    async def _connection(self, replica, delay):
        period = self.connections * len(self.ports) / self.rate
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[replica])
        due = time.monotonic() + delay * period
        while not self.has_ended:
            await asyncio.sleep(max(0, due - time.monotonic()))
            sent = time.monotonic()
            writer.write(self.ask)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = [line for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
            await reader.readexactly(int(length[0].split(b":")[1]))
            self.seen.append(Seen(sent, int(head[9:12]), time.monotonic() - sent, replica))
            due += period
        writer.close()

    async def _watch(self):
        while not self.has_ended:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            self.lag = max(self.lag, time.monotonic() - before - 0.005)

    async def _run(self):
        places = range(self.connections)
        tasks = [
            self._connection(replica, (place + replica / len(self.ports)) / self.connections)
            for replica in range(len(self.ports))
            for place in places
        ]
        await asyncio.gather(self._watch(), *tasks)

    def __enter__(self):
        self.error = None

        def run():
            try:
                asyncio.run(self._run())
            except Exception as error:  # The test's own thread raises it.
                self.error = error

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, kind, *_):
        self.has_ended = True
        self.thread.join(30)
        if self.error and kind is None:
            raise self.error

    def go_on(self, seconds):
        """Lets the load go on for a time."""
        end = time.monotonic() + seconds
        with contextlib.suppress(TimeoutError):
            while (left := end - time.monotonic()) > 0 and self.thread.is_alive():
                self.thread.join(left)

    def statuses(self, since=0):
        return {seen.status for seen in self.seen if seen.sent >= since}

    def slowest(self):
        return sorted(seen.seconds for seen in self.seen)[-5:]
