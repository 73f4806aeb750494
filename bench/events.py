"""Server-sent events for the bench: a server with a steady rate, and a reader that counts events.

events.py serve PORT
events.py read URL STREAMS SECONDS TOKEN     prints number and bytes of events in the window
events.py chat URL STREAMS SECONDS TOKEN     the same, of streams that a chat request asks for
"""

import asyncio
import ssl
import sys
import time
from urllib.parse import urlsplit

EVENT = b'data: {"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":" word"}}]}\n\n'
CHUNK = b"%x\r\n%s\r\n" % (len(EVENT), EVENT)
# A chat request that declares its model and its output.
CHAT = b'{"model":"tiny-events","stream":true,"max_tokens":100000,"messages":[{"role":"user","content":"hi"}]}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
# Each stream gets an event every 10 ms, a tenth of the streams in each millisecond.
TICKS_PER_EVENT = 10


async def serve(port):
    streams = set()

    async def answer(reader, writer):
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(HEAD)
                streams.add(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            streams.discard(writer)
            writer.close()

    async def tick():
        elapsed, due = 0, time.monotonic()
        while True:
            due += 0.001
            elapsed += 1
            for number, writer in enumerate(list(streams)):
                if (number + elapsed) % TICKS_PER_EVENT == 0:
                    writer.write(CHUNK)
            await asyncio.sleep(max(0, due - time.monotonic()))

    server = await asyncio.start_server(answer, "127.0.0.1", port, backlog=1024)
    async with server:
        await tick()


class Reader(asyncio.Protocol):
    events = size = 0

    def __init__(self, ask):
        self.ask = ask

    def connection_made(self, transport):
        transport.write(self.ask)

    def data_received(self, data):
        Reader.events += data.count(b"data: ")
        Reader.size += len(data)


async def read(url, streams, seconds, token, body=b""):
    url = urlsplit(url)
    method = "POST" if body else "GET"
    ask = f"{method} {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {token}\r\n"
    ask += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n" if body else "\r\n"
    ask = ask.encode() + body
    tls = ssl._create_unverified_context() if url.scheme == "https" else None
    loop = asyncio.get_running_loop()
    for _ in range(streams):
        await loop.create_connection(lambda: Reader(ask), url.hostname, url.port, ssl=tls)
    # The parent process reads this line, and then the server's CPU time so far.
    print("begun", flush=True)
    await asyncio.sleep(0.2)
    Reader.events = Reader.size = 0
    print("window", flush=True)
    await asyncio.sleep(seconds)
    print(Reader.events, Reader.size, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(int(sys.argv[2])))
    else:
        body = CHAT if sys.argv[1] == "chat" else b""
        asyncio.run(read(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), sys.argv[5], body))
