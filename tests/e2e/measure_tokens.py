"""Long measurements of token limits and of the guard of models, run by `make measure-tokens`.

Measures the delay of events with and without a token limit, and the memory for 17.5 GB of uploads by
a key that is restricted to models. Prints figures, and exits with 1 if one exceeds its promised bound.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import pathlib
import signal
import socket
import statistics
import sys
import threading
import time

from gateway import Gateway
from recorder import header
from scripted import SSE, chunk, connect, json_answer, post, read_until

MIB, UPLOADS, CONNECTIONS, PROCESSES = 1 << 20, 17_500, 64, 4
# limits.model_memory, and what else may be in use.
MOST_GROWTH_KIB = (64 + 16) * 1024
failed = []


def report(subject, figure, good):
    print(f"{'ok  ' if good else 'FAIL'} {subject}: {figure}", flush=True)
    if not good:
        failed.append(subject)


@contextlib.contextmanager
def processes(count, work, *arguments):
    """Runs `work` in processes of their own, which are killed at the end."""
    workers = [multiprocessing.Process(target=work, args=arguments, daemon=True) for _ in range(count)]
    for worker in workers:
        worker.start()
    try:
        yield workers
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


# --- Delay of events ---


async def pace(reader, writer):
    """Answers each request with an event every 5 ms, with the time at which it was sent."""
    # asyncio does not set this on connections of a listener that it was given.
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(int(header(head, "content-length") or 0))
            is_asked = b"include_usage" in body
            writer.write(SSE)
            started = time.monotonic()
            for number in range(1, 201):
                await asyncio.sleep(max(0, started + number * 0.005 - time.monotonic()))
                null = ',"usage":null' if is_asked else ""
                event = '{"sent":%d,"choices":[{"index":0,"delta":{"content":" bear"}}]%s}' % (time.monotonic_ns(), null)
                writer.write(chunk(f"data: {event}\n\n".encode()))
            usage = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":200}}\n\n' if is_asked else b""
            writer.write(chunk(usage + b"data: [DONE]\n\n") + b"0\r\n\r\n")
    writer.close()


def serve_paced(listener):
    async def serve():
        async with await asyncio.start_server(pace, sock=listener, limit=MIB) as server:
            await server.serve_forever()

    asyncio.run(serve())


async def delays_of(port, path, key):
    """Delays in milliseconds of the events of one stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=MIB)
    writer.write(post(path, key, '{"model":"m","stream":true,"max_tokens":200,"messages":[]}'))
    await reader.readuntil(b"\r\n\r\n")
    delays, text = [], b""
    while b"[DONE]" not in text:
        text = await reader.readuntil(b"\n\n")
        if b'"sent":' in text:
            delays.append((time.monotonic_ns() - int(text.split(b'"sent":')[1].split(b",")[0])) / 1e6)
    writer.close()
    return delays


async def paced_streams(gateway, upstream, rounds):
    """Delays of events, by the way that they take. All ways are measured at the same time."""
    limited, free = gateway.tokens["limited"], gateway.tokens["free"]
    chat, plain = "/v1/chat/completions", "/plain/stream"
    ways = {
        "direct": (upstream, chat, free),
        "not scanned": (gateway.port, plain, free),
        "without a token limit": (gateway.port, chat, free),
        "with a token limit": (gateway.port, chat, limited),
    }
    found = {way: [] for way in ways}
    for number in range(rounds):
        order = list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]
        streams = [(way, asyncio.create_task(delays_of(*ways[way]))) for way in order]
        for way, stream in streams:
            found[way] += await stream
    return found


def measure_delay(rounds):
    keys = {"limited": ["--permissions", "read", "--tokens", "500M/1d"], "free": ["--permissions", "read"]}
    config = "routes: [{name: plain, paths: [/plain/**], permission: read}, {preset: openai}]"
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    upstream = listener.getsockname()[1]
    with processes(1, serve_paced, listener), Gateway(upstream, keys, config=config) as gateway:
        found = asyncio.run(paced_streams(gateway, upstream, rounds))
    p99 = {}
    for way, delays in found.items():
        p99[way] = statistics.quantiles(delays, n=100)[98]
        print(f"     {way}: {len(delays)} events, p50 {statistics.median(delays):.3f} ms, p99 {p99[way]:.3f} ms", flush=True)
    for way in ("without a token limit", "not scanned"):
        added = p99["with a token limit"] - p99[way]
        report(f"added at p99 by a token limit, compared with streams {way}", f"{added:.3f} ms", added <= 1)


# --- Memory of uploads ---


def serve_uploads(listener):
    """Reads and discards bodies, and answers each one."""

    def serve(side):
        space, usage = memoryview(bytearray(MIB)), json_answer('{"usage":{"prompt_tokens":9,"completion_tokens":1}}')
        with contextlib.suppress(OSError, ValueError), side:
            while head := read_until(side, b"\r\n\r\n"):
                left = int(header(head, "content-length")) - len(head.split(b"\r\n\r\n", 1)[1])
                while left and (size := side.recv_into(space[: min(left, MIB)])):
                    left -= size
                if left:
                    return
                side.sendall(usage)

    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


def bodies():
    """Bodies of 1 MiB whose model is at the front, and at the end."""
    words = json.dumps("a bear guards the door, and only those who hold a “key” may enter\n" * 14_800)[1:-1]
    front = '{"model":"bear-1b","max_tokens":1,"messages":[{"role":"user","content":"%s"}]}'
    end = '{"max_tokens":1,"messages":[{"role":"user","content":"%s"}],"model":"bear-1b"}'
    return [(form % words[: MIB - 100]) for form in (front, end)]


def upload(port, key, count, statuses):
    """Sends uploads in turn with the model at the front and at the end, over connections that are kept."""
    messages, side = [post("/v1/chat/completions", key, body) for body in bodies()], None
    for number in range(count):
        side = side or connect(port)
        with contextlib.suppress(OSError):
            side.sendall(messages[number % 2])
        answer = b""
        with contextlib.suppress(OSError):
            answer = read_until(side, b"\r\n\r\n")
        statuses.append(f"{'at the end' if number % 2 else 'in front'} {answer[9:12].decode() or 'cut'}")
        if answer.startswith(b"HTTP/1.1 200") and b"connection: close" not in answer.lower():
            length = int(header(answer, "content-length") or 0) - len(answer.split(b"\r\n\r\n", 1)[1])
            while length > 0:
                length -= len(side.recv(length))
            continue
        side.close()
        side = None


def uploader(port, key, count, results):
    statuses, connections = [], CONNECTIONS // PROCESSES
    shares = [count // connections + (number < count % connections) for number in range(connections)]
    threads = [threading.Thread(target=upload, args=(port, key, share, statuses)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put(statuses)


def counts(values):
    return {value: values.count(value) for value in sorted(set(values))}


class Peak:
    """The memory of a process in KiB: before, at most, and after a piece of work."""

    def __init__(self, gateway):
        self.gateway = gateway

    def sample(self):
        while not self.done.wait(0.02):
            self.most = max(self.most, self.gateway.rss_kib())

    def __enter__(self):
        self.before = self.most = self.gateway.rss_kib()
        pathlib.Path(f"/proc/{self.gateway.process.pid}/clear_refs").write_text("5")
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.sample)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
        status = pathlib.Path(f"/proc/{self.gateway.process.pid}/status").read_text()
        high = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        self.most, self.after = max(self.most, int(high.split()[1])), self.gateway.rss_kib()

    def report(self, subject):
        figure = f"{self.before / 1024:.1f} MiB before, {self.most / 1024:.1f} MiB at most, {self.after / 1024:.1f} MiB after"
        report(subject, figure, self.most - self.before < MOST_GROWTH_KIB)


def measure_uploads(gateway, count):
    results, started = multiprocessing.Queue(), time.monotonic()
    with Peak(gateway) as peak:
        with processes(PROCESSES, uploader, gateway.port, gateway.tokens["bears"], count // PROCESSES, results):
            statuses = [status for _ in range(PROCESSES) for status in results.get(timeout=1800)]
    seconds = time.monotonic() - started
    peak.report(f"{len(statuses)} uploads of 1 MiB through {CONNECTIONS} connections in {seconds:.0f} s, {counts(statuses)}")
    is_right = set(statuses) <= {"in front 200", "at the end 400", "at the end cut"}
    report("an upload is accepted exactly if its model is in front", is_right, is_right)


def measure_stalled(gateway):
    """Uploads that stall before their model, behind their model, and in the middle of the body."""
    front, end = (post("/v1/chat/completions", gateway.tokens["bears"], body) for body in bodies())
    early = end[: 60 * 1024]
    with Peak(gateway) as peak:
        sides = [connect(gateway.port) for _ in range(CONNECTIONS)]
        for number, side in enumerate(sides):
            side.sendall(early if number % 2 else front[: MIB // 2])
        time.sleep(10)
        statuses = []
        for number, side in enumerate(sides):
            with contextlib.suppress(OSError):
                side.sendall(end[len(early) :] if number % 2 else front[MIB // 2 :])
            with contextlib.suppress(OSError):
                statuses.append(read_until(side, b"\r\n\r\n")[9:12].decode() or "cut")
            side.close()
    peak.report(f"{CONNECTIONS} uploads that stall for 10 s, {counts(statuses)}")


def measure_memory(count):
    keys = {"bears": ["--permissions", "read", "--models", "bear-*", "--tokens", "100M/1s"]}
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    with processes(2, serve_uploads, listener), Gateway(listener.getsockname()[1], keys) as gateway:
        side = connect(gateway.port)
        side.sendall(post("/v1/chat/completions", gateway.tokens["bears"], '{"model":"bear-1b"}'))
        read_until(side, b"\r\n\r\n")
        side.close()
        measure_uploads(gateway, count)
        measure_stalled(gateway)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="rounds of 4 streams")
    parser.add_argument("--uploads", type=int, default=UPLOADS, help="number of uploads of 1 MiB")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    measure_delay(arguments.rounds)
    measure_memory(arguments.uploads)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
