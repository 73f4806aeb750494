"""Answers in the forms of OpenAI, vLLM, llama.cpp and Anthropic, each made from a number.

The answer to a number is the same each time, except for what a server adds if it is asked for the
usage of the stream: the extra chunk, and in OpenAI's form `"usage": null` in the other chunks.
"""

import gzip
import json
import random

from recorder import header
from scripted import END, chunk

PIECES = [" bear", " ward", "熊", " ünï", '"usage":null', '{"usage": null, "choices": []}', "\n\ndata: x", "\\", " usage", "", "é" * 40]
FORMS = ["openai", "vllm", "llama.cpp"]


def usage(rng):
    prompt, completion = rng.randrange(1, 900), rng.randrange(1, 90)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def choice(rng, number, path, finish=None):
    """A piece of the output: words, a call of a tool, or an end."""
    text = rng.choice(PIECES)
    if not path.endswith("/chat/completions"):
        return {"index": number, "text": text, "logprobs": None, "finish_reason": finish}
    deltas = [{"content": text}, {"content": text, "usage": None}, {"role": "assistant", "content": None}]
    deltas.append({"tool_calls": [{"index": 0, "function": {"arguments": text}}]})
    return {"index": number, "delta": {} if finish else rng.choice(deltas), "logprobs": None, "finish_reason": finish}


def chunks(rng, path, is_asked):
    """Chunks of OpenAI's form, as lists of members."""
    form, several, place = rng.choice(FORMS), rng.choice([1, 1, 2, 4]), rng.randrange(3)
    common = {"id": f"chatcmpl-{rng.randrange(10**9)}", "object": "chunk", "created": rng.randrange(10**9), "model": "tiny"}
    null = {"usage": None} if form == "openai" and is_asked else {}
    made = [choice(rng, rng.randrange(several), path) for _ in range(rng.randrange(1, 25))]
    for made_choice in made + [choice(rng, number, path, "stop") for number in range(several)]:
        parts = [common, {"choices": [made_choice]}]
        parts.insert(place, null)
        yield {name: value for part in parts for name, value in part.items()}
    last, timings = usage(rng), {"timings": {"predicted_n": 3}} if form == "llama.cpp" else {}
    if is_asked:
        yield {**common, "choices": [], "usage": last, **timings}


def anthropic_events(rng):
    """Events of Anthropic's form, by name."""
    message = {"id": "msg_1", "type": "message", "content": [], "usage": {"input_tokens": 9, "output_tokens": 1}}
    yield "message_start", {"type": "message_start", "message": message}
    yield "ping", {"type": "ping"}
    for _ in range(rng.randrange(1, 25)):
        delta = {"type": "text_delta", "text": rng.choice(PIECES)}
        yield "content_block_delta", {"type": "content_block_delta", "index": 0, "delta": delta}
    yield "message_delta", {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}}
    yield "message_stop", {"type": "message_stop"}


def responses_events(rng):
    """Events of OpenAI's responses, by name."""
    yield "response.created", {"type": "response.created", "response": {"status": "in_progress", "usage": None}}
    for _ in range(rng.randrange(1, 25)):
        yield "response.output_text.delta", {"type": "response.output_text.delta", "delta": rng.choice(PIECES)}
    done = {"status": "completed", "usage": {"input_tokens": 9, "output_tokens": 7}}
    yield "response.completed", {"type": "response.completed", "response": done}


def stream(rng, path, is_asked):
    """Body of a stream, with line ends, comments and fields of one server."""
    if path.endswith("/messages"):
        events = list(anthropic_events(rng))
    elif path.endswith("/responses"):
        events = list(responses_events(rng))
    else:
        # The state of `rng` behind the chunks does not depend on what the server was asked for.
        inner = rng.randrange(10**9)
        events = [(None, event) for event in chunks(random.Random(inner), path, is_asked)]
    line_end = rng.choice(["\n", "\n", "\r\n", "\r"])
    colon, spaces = rng.choice(["data: ", "data:"]), rng.choice([(",", ":"), (", ", ": ")])
    comment = rng.choice(["", "", ": ping", ": OPENROUTER PROCESSING"])
    ending = rng.choice(["[DONE]", None]) if line_end != "\r" else "[DONE]"
    text = f"retry: 3000{line_end * 2}" if rng.random() < 0.1 else ""
    for number, (name, event) in enumerate(events):
        if comment and number % 5 == 0 and event.get("choices") != []:
            text += comment + line_end * 2
        text += f"event: {name}{line_end}" if name else ""
        text += colon + json.dumps(event, ensure_ascii=number % 2 == 0, separators=spaces) + line_end * 2
    text += f"{colon}{ending}{line_end * 2}" if ending else ""
    # Some servers end without the last empty line.
    return text[: -len(line_end)].encode() if ending and rng.random() < 0.1 else text.encode()


def document(rng):
    """Body of an answer that is no stream."""
    choices = [{"index": 0, "message": {"role": "assistant", "content": "".join(rng.choices(PIECES, k=20))}}]
    return json.dumps({"id": "x", "choices": choices, "usage": usage(rng)}, indent=rng.choice([None, 2])).encode()


def pieces(rng, body):
    """The body in pieces: of one byte, of random sizes, or whole."""
    size = rng.choice([1, 7, 40, 400, len(body) or 1])
    while body:
        length = size if size in (1, len(body)) else rng.randrange(1, size + 1)
        yield body[:length]
        body = body[length:]


def answer(number, request):
    """The answer to a recorded request, as the pieces in which it is sent."""
    rng, path, content = random.Random(number), request.split(b" ", 2)[1].decode(), json.loads(request.split(b"\r\n\r\n", 1)[1])
    is_asked = bool((content.get("stream_options") or {}).get("include_usage"))
    is_stream = bool(content.get("stream")) and rng.random() > 0.05
    body = stream(rng, path, is_asked) if is_stream else document(rng)
    rng = random.Random(-number)
    status = "200 OK" if rng.random() > 0.05 else rng.choice(["400 Bad Request", "500 Internal Server Error"])
    head = f"HTTP/1.1 {status}\r\nx-number: {number}\r\ncontent-type: "
    head += rng.choice(["text/event-stream", "text/event-stream; charset=utf-8"]) if is_stream else "application/json"
    if rng.random() < 0.4 and "gzip" in header(request, "accept-encoding"):
        body, head = gzip.compress(body, mtime=0), head + "\r\ncontent-encoding: gzip"
    framing = rng.choice(["chunked", "chunked", "chunked", "length", "close"])
    fields = {"chunked": "transfer-encoding: chunked", "length": f"content-length: {len(body)}", "close": "connection: close"}
    yield f"{head}\r\n{fields[framing]}\r\n\r\n".encode()
    for piece in pieces(rng, body):
        yield chunk(piece) if framing == "chunked" else piece
    yield END if framing == "chunked" else b""
