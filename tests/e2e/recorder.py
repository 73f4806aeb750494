"""A relay in front of a model server that records each request and answer, byte for byte."""

import asyncio
import contextlib
import dataclasses
import json
import threading


@dataclasses.dataclass
class Exchange:
    """A request and what the server has answered to it up to now, as bytes on the wire."""

    request: bytes = b""
    answer: bytearray = dataclasses.field(default_factory=bytearray)

    @property
    def body(self):
        return body_of(bytes(self.answer))


class Recorder:
    """Relay to the loopback port `upstream`. `exchanges`: request id → exchange."""

    def __init__(self, upstream):
        self.upstream, self.exchanges = upstream, {}

    async def serve(self, reader, writer):
        server = None
        try:
            request = await read_message(reader)
            exchange = Exchange(request)
            self.exchanges[header(request, "x-request-id")] = exchange
            answers, server = await asyncio.open_connection("127.0.0.1", self.upstream)
            line, rest = request.split(b"\r\n", 1)
            server.write(line + b"\r\nConnection: close\r\n" + without(rest, b"connection"))
            relaying = asyncio.create_task(self.relay(answers, writer, exchange))
            leaving = asyncio.create_task(reader.read(1))
            await asyncio.wait([relaying, leaving], return_when=asyncio.FIRST_COMPLETED)
            leaving.cancel()
            relaying.cancel()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for side in filter(None, (server, writer)):
                side.close()

    async def relay(self, answers, writer, exchange):
        with contextlib.suppress(OSError):
            while data := await answers.read(1 << 16):
                exchange.answer += data
                writer.write(data)
                await writer.drain()

    def __enter__(self):
        self.loop = asyncio.new_event_loop()
        self.server = self.loop.run_until_complete(asyncio.start_server(self.serve, "127.0.0.1", 0, limit=1 << 24))
        self.port = self.server.sockets[0].getsockname()[1]
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks))
        self.loop.close()


async def read_message(reader):
    """Bytes of a request with its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    if "chunked" in header(head, "transfer-encoding"):
        while not head.endswith(b"\r\n0\r\n\r\n"):
            head += await reader.readuntil(b"\r\n")
        return head
    return head + await reader.readexactly(int(header(head, "content-length") or 0))


def header(message, name):
    """Value of a header of a message; empty if there is none."""
    lines = message.split(b"\r\n\r\n", 1)[0].decode("latin-1").split("\r\n")[1:]
    return next((value.strip() for field, _, value in (line.partition(":") for line in lines) if field.lower() == name), "")


def without(head, name):
    """The bytes of headers and body, without the header `name`."""
    headers, end, body = head.partition(b"\r\n\r\n")
    return b"\r\n".join(line for line in headers.split(b"\r\n") if not line.lower().startswith(name + b":")) + end + body


def body_of(message):
    """Body of a message that may be cut, without the framing of its chunks."""
    body = message.partition(b"\r\n\r\n")[2]
    if "chunked" not in header(message, "transfer-encoding"):
        return body
    parts = []
    while True:
        size, found, body = body.partition(b"\r\n")
        if not found or not (length := int(size.split(b";")[0], 16)):
            return b"".join(parts)
        parts.append(body[:length])
        body = body[length + 2 :]


def documents(body):
    """The JSON documents of an answer: itself, or the data of its complete events."""
    text = body.decode(errors="replace")
    events = text.replace("\r\n", "\n").split("\n\n")[:-1]
    data = ["".join(line[5:] for line in event.split("\n") if line.startswith("data:")).strip() for event in events]
    if not data and not text.startswith(("data:", "event:", ":")):
        data = [text]
    return [json.loads(text) for text in data if text and text != "[DONE]"]


def own_counts(body):
    """Tokens that llama.cpp reports in an answer: (input, cached input, output)."""
    found = {"input": None, "cached": None, "output": 0}
    for document in documents(body):
        if isinstance(document, list) and all("timings" in answer for answer in document):
            each = [own_counts(json.dumps(answer).encode()) for answer in document]
            return tuple(map(sum, zip(*each)))
        if not isinstance(document, dict):
            continue
        if timings := document.get("timings"):
            found = {"input": timings["cache_n"] + timings["prompt_n"], "cached": timings["cache_n"], "output": timings["predicted_n"]}
        for part in (document, document.get("response"), document.get("message")):
            found.update(of_usage(part.get("usage") or {}) if isinstance(part, dict) else {})
    return found["input"], found["cached"], found["output"]


def of_usage(usage):
    """Counts of a member `usage`, in the forms of OpenAI and of Anthropic."""
    found = {}
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    if "prompt_tokens" in usage:
        found["input"] = usage["prompt_tokens"]
    if "input_tokens" in usage:
        found["input"] = usage["input_tokens"] + usage.get("cache_read_input_tokens", 0)
    if "cached_tokens" in details or "cache_read_input_tokens" in usage:
        found["cached"] = details.get("cached_tokens", usage.get("cache_read_input_tokens"))
    output = usage.get("completion_tokens", usage.get("output_tokens"))
    return found if output is None else {**found, "output": output}
