"""A TCP proxy with faults on the way to a server, for tests."""

import asyncio
import contextlib
import threading

MODES = ("pass", "delay", "hole", "reset", "refuse")


class FaultProxy:
    """Listens on `port`, and forwards to `target`, a port. `become` changes how.

    | mode | connections |
    |---|---|
    | pass | are forwarded |
    | delay | each piece of data arrives later, in both directions |
    | hole | stay, and nothing arrives until the mode changes, as when packets are lost |
    | reset | are reset, old and new ones |
    | refuse | are reset, and new ones are refused |
    """

    def __init__(self, target):
        self.target, self.mode, self.seconds, self.connections = target, "pass", 0, set()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.passes = asyncio.Event()
        self.passes.set()
        self.port = 0
        self._run(self._listen())

    def become(self, mode, seconds=0):
        """Changes the mode. `seconds`: of the mode delay, in each direction."""
        assert mode in MODES, mode
        self._run(self._become(mode, seconds))

    def turn_to(self, target):
        """Cuts all connections. New ones go to another port."""
        self.target = target
        self._run(self._reset())

    async def _become(self, mode, seconds):
        self.mode, self.seconds = mode, seconds
        self.passes.clear() if mode == "hole" else self.passes.set()
        if mode in ("reset", "refuse"):
            await self._reset()
        if mode == "refuse":
            self.server.close()
        elif not self.server.is_serving():
            await self._listen()

    async def _listen(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _reset(self):
        for writer in list(self.connections):
            writer.transport.abort()

    async def _serve(self, reader, writer):
        if self.mode in ("reset", "refuse"):
            return writer.transport.abort()
        with contextlib.suppress(OSError):
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target)
            both = {writer, server_writer}
            self.connections |= both
            await asyncio.gather(self._pump(reader, server_writer), self._pump(server_reader, writer))
            self.connections -= both
        writer.close()

    async def _pump(self, reader, writer):
        """Forwards one direction. What waits does not delay what comes behind it any further."""
        pieces = asyncio.Queue()

        async def read():
            with contextlib.suppress(OSError):
                while data := await reader.read(65536):
                    pieces.put_nowait((self.loop.time() + self.seconds, data))
            pieces.put_nowait((0, b""))

        reading = self.loop.create_task(read())
        with contextlib.suppress(OSError):
            while True:
                due, data = await pieces.get()
                if not data:
                    break
                await asyncio.sleep(max(0, due - self.loop.time()))
                await self.passes.wait()
                writer.write(data)
                await writer.drain()
        writer.close()
        reading.cancel()

    def _run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._run(self._end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def _end(self):
        self.server.close()
        await self._reset()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others)
