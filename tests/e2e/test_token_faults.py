"""Requests and answers with which other products lose count of tokens."""

import contextlib
import dataclasses
import json
import signal
import subprocess
import threading

import pytest

from gateway import Gateway, binary, wait_for
from recorder import body_of, header
from scripted import END, SSE, Scripted, chunk, connect, json_answer, post, read_until, reset
from test_tokens import line_of

LIMIT = 1_000_000
# So little comes back in a year's window that a test sees none of it.
KEYS = {"reader": ["--permissions", "read", "--tokens", f"{LIMIT}/365d"]}
WORD = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
USAGE = '{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}'
DONE = b"data: [DONE]\n\n"


@dataclasses.dataclass
class Fault:
    """A request and its answer: `reserves` tokens before the answer, and `uses` tokens at its end."""

    name: str
    body: dict
    answer: bytes
    reserves: int
    uses: int
    by: str | None
    ending: str = "keep"


def stream(*events):
    return SSE + b"".join(chunk(event) for event in events)


STREAM, USED = {"max_tokens": 50, "stream": True}, f"data: {USAGE}\n\n".encode()
FAULTS = [
    Fault("no maximum", {}, json_answer(USAGE), 1024, 7, "reported"),
    Fault("no maximum of a stream", {"stream": True}, stream(WORD, USED, DONE) + END, 1024, 7, "reported"),
    Fault("a maximum of 1e9", {"max_tokens": 10**9}, json_answer(USAGE), LIMIT, 7, "reported"),
    Fault("a maximum of 1e9 in a stream that breaks", {**STREAM, "max_tokens": 10**9}, stream(WORD), LIMIT, 1, "counted", "reset"),
    Fault("128 answers", {"max_tokens": 10, "n": 128}, json_answer(USAGE), 1280, 7, "reported"),
    # The server reports the tokens of one of the answers.
    Fault("128 streams", {**STREAM, "n": 128}, stream(*[WORD] * 200, USED, DONE) + END, 6400, 205, "reported"),
    Fault("several prompts", {"max_tokens": 10, "prompt": ["", "", ""]}, json_answer(USAGE), 30, 7, "reported"),
    Fault("a reset before the answer", STREAM, b"", 0, 0, None, "reset"),
    Fault("a reset in the head", STREAM, SSE[:20], 0, 0, None, "reset"),
    Fault("a reset behind the head", STREAM, SSE, 50, 0, "counted", "reset"),
    Fault("a reset in mid-stream", STREAM, stream(WORD, WORD, WORD), 50, 3, "counted", "reset"),
    Fault("a reset in an event", STREAM, stream(WORD, WORD, WORD[:20]), 50, 2, "counted", "reset"),
    Fault("an end in mid-stream", STREAM, stream(WORD, WORD, WORD), 50, 3, "counted", "close"),
    Fault("an end in a chunk", STREAM, stream(WORD, WORD)[:-1], 50, 2, "counted", "close"),
    Fault("a chunk without a size", STREAM, stream(WORD, WORD) + b"x\r\n", 50, 2, "counted", "close"),
    Fault("a reset behind the usage", STREAM, stream(WORD, WORD, USED), 50, 7, "counted", "reset"),
    Fault("a reset in a body of JSON", {"max_tokens": 50}, json_answer(USAGE)[:-20], 50, 50, "estimated", "reset"),
]


def answering(fault):
    """Script that answers one request with the fault, and all others with a usage of nothing."""

    def script(side, request):
        if b"/embeddings" in request:
            side.sendall(json_answer('{"usage":{"prompt_tokens":0,"total_tokens":0}}'))
            return True
        side.sendall(fault.answer)
        if fault.ending == "reset":
            # A reset at once could overtake the bytes before it.
            side.settimeout(0.05)
            with contextlib.suppress(TimeoutError):
                side.recv(1)
            reset(side)
        return fault.ending == "keep"

    return script


def exchange(gateway, body, request_id, key=None):
    """Head and body of an answer, as far as they came."""
    token = key or gateway.tokens["reader"]
    with connect(gateway.port) as side, contextlib.suppress(ConnectionResetError):
        more = f"X-Request-Id: {request_id}\r\nConnection: close\r\n"
        side.sendall(post("/v1/chat/completions", token, json.dumps(body), more))
        return read_until(side, b"\0")
    return b""


def left(message):
    return int(header(message, "x-ratelimit-remaining-tokens") or -1)


def remaining(gateway, key=None):
    """Tokens of the key, from the answer to a request that reserves none."""
    with connect(gateway.port) as side:
        side.sendall(post("/v1/embeddings", key or gateway.tokens["reader"], '{"input":[]}'))
        return left(read_until(side, b"\r\n\r\n"))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_a_fault_costs_what_was_used(fault):
    with Scripted(answering(fault)) as upstream, Gateway(upstream.port, KEYS) as gateway:
        answer = exchange(gateway, fault.body, "fault")
        line = line_of(gateway, "fault")
        assert line.get("tokens_by") == fault.by, line
        assert line.get("input_tokens", 0) + line.get("output_tokens", 0) == fault.uses, line
        if fault.by:
            assert LIMIT - left(answer) == fault.reserves
        assert remaining(gateway) == LIMIT - fault.uses
        words = body_of(answer).count(b'"content":"a"') if fault.by else 0
        assert fault.by != "counted" or words == body_of(fault.answer.split(b"x\r\n")[0]).count(b'"content":"a"')


RESPONSE = [
    b'data: {"type":"response.output_text.delta","delta":"a"}\n\n',
    b'data: {"type":"response.output_text.done","text":"a"}\n\n',
    b'data: {"type":"response.content_part.done","part":{"text":"a"}}\n\n',
    b'data: {"type":"response.completed","response":{"usage":{"input_tokens":5,"output_tokens":1}}}\n\n',
]
CHAT = [WORD, b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1}}\n\n' + DONE]


@pytest.mark.parametrize("path, events", [("/v1/chat/completions", CHAT), ("/v1/responses", RESPONSE)])
def test_a_client_that_leaves_behind_the_last_event_pays_the_usage(path, events):
    """SDKs close their connection behind the last event, before the end of the answer has come."""
    may_end = threading.Event()

    def script(side, request):
        side.sendall(stream(*events))
        may_end.wait(30)
        side.sendall(END)

    with Scripted(script) as upstream, Gateway(upstream.port, KEYS) as gateway:
        with connect(gateway.port) as side:
            body = '{"stream":true,"max_tokens":50,"stream_options":{"include_usage":true}}'
            side.sendall(post(path, gateway.tokens["reader"], body, "X-Request-Id: leaving\r\n"))
            read_until(side, events[-1])
        try:
            line = line_of(gateway, "leaving")
        finally:
            may_end.set()
        assert (line["input_tokens"], line["output_tokens"], line["tokens_by"]) == (5, 1, "reported"), line


@pytest.mark.parametrize("end", ["\n", "\r\r"])
def test_the_extra_chunk_is_removed_as_the_last_event_too(end):
    text = WORD.replace(b"\n\n", b"\r\r") if end == "\r\r" else WORD
    fault = Fault("", STREAM, stream(text, f"data: {USAGE}{end}".encode()) + END, 50, 7, "reported")
    with Scripted(answering(fault)) as upstream, Gateway(upstream.port, KEYS) as gateway:
        assert body_of(exchange(gateway, STREAM, "last")) == text


class Paced:
    """Stream that sends a word at once, and the rest when it `may_end`."""

    def __init__(self):
        self.may_end = threading.Event()

    def __call__(self, side, request):
        if b"/embeddings" in request:
            side.sendall(json_answer('{"usage":{"prompt_tokens":0,"total_tokens":0}}'))
            return
        side.sendall(stream(WORD))
        assert self.may_end.wait(30)
        side.sendall(chunk(WORD) + chunk(USED + DONE) + END)


@contextlib.contextmanager
def in_flight(**options):
    """bearward with a stream whose client has received the first event, and the end of the stream."""
    script = Paced()
    with Scripted(script) as upstream, Gateway(upstream.port, KEYS, admin=True, **options) as gateway:
        with connect(gateway.port) as side:
            body = json.dumps({**STREAM, "model": "m"})
            more = "X-Request-Id: flying\r\nConnection: close\r\n"
            side.sendall(post("/v1/chat/completions", gateway.tokens["reader"], body, more))
            seen = read_until(side, WORD)

            def end():
                script.may_end.set()
                text = body_of(read_until(side, b"\0", seen))
                assert text == WORD + WORD + DONE, text
                line = line_of(gateway, "flying")
                assert (line["input_tokens"], line["output_tokens"], line["tokens_by"]) == (5, 2, "reported")

            try:
                yield gateway, end
            finally:
                script.may_end.set()


def test_a_stream_is_charged_to_its_key_although_the_configuration_changes():
    with in_flight() as (gateway, end):
        changed = gateway.config_text + "limits: {header_bytes: 64KiB}\nrate_limits: [{tokens: 500k, per: 365d}]\n"
        (gateway.path / "bearward.yaml").write_text(changed)
        assert gateway.reload()["success"], gateway.lines
        assert remaining(gateway) == LIMIT - 50
        end()
        assert remaining(gateway) == LIMIT - 7


def test_a_stream_is_charged_to_a_limit_that_changes_meanwhile():
    with in_flight() as (gateway, end):
        keys = gateway.path / "keys.yaml"
        keys.write_text(keys.read_text().replace(str(LIMIT), "2000").replace("1M", "2000"))
        assert gateway.reload()["success"], gateway.lines
        assert remaining(gateway) == 2000 - 50, keys.read_text()
        end()
        assert remaining(gateway) == 2000 - 7


def test_a_stream_is_charged_to_its_key_although_the_key_is_rotated():
    with in_flight() as (gateway, end):
        command = [binary(), "keys", "rotate", "reader", "--keys", str(gateway.path / "keys.yaml")]
        new = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        wait_for("the new secret is accepted", lambda: remaining(gateway, new) == LIMIT - 50)
        end()
        assert remaining(gateway, new) == LIMIT - 7


def test_a_stream_that_a_shutdown_waits_for_is_counted():
    with in_flight() as (gateway, end):
        gateway.process.send_signal(signal.SIGTERM)
        wait_for("bearward stops", lambda: any('"stopping' in line for line in gateway.lines))
        end()
        assert gateway.process.wait(timeout=30) == 0


def test_a_stream_that_a_shutdown_cuts_is_charged_for_what_was_delivered():
    with in_flight(config="limits: {drain_timeout: 100ms}") as (gateway, _):
        gateway.process.send_signal(signal.SIGTERM)
        line = line_of(gateway, "flying")
        assert (line["outcome"], line["output_tokens"], line["tokens_by"]) == ("drained", 1, "counted"), line
        assert gateway.process.wait(timeout=30) == 1


def test_calls_at_once_with_and_without_a_maximum_share_one_limit():
    """Streams that are open at the same time reserve the limit, and the rest of them is refused."""
    script = Paced()
    keys = {"reader": ["--permissions", "read", "--tokens", "10000/365d"]}
    with Scripted(script) as upstream, Gateway(upstream.port, keys) as gateway, contextlib.ExitStack() as stack:
        bodies = [{**STREAM, "max_tokens": 1000}, {"stream": True}, {**STREAM, "max_tokens": 500, "n": 2}] * 10
        sides = []
        for number, body in enumerate(bodies):
            side = stack.enter_context(connect(gateway.port))
            more = f"X-Request-Id: call-{number}\r\nConnection: close\r\n"
            side.sendall(post("/v1/chat/completions", gateway.tokens["reader"], json.dumps(body), more))
            sides.append(side)
        heads = [read_until(side, b"\r\n\r\n") for side in sides]
        granted = sum(head.startswith(b"HTTP/1.1 200") for head in heads)
        assert granted == 9 and sum(head.startswith(b"HTTP/1.1 429") for head in heads) == len(bodies) - 9
        script.may_end.set()
        for side in sides:
            read_until(side, b"\0")
        lines = [line_of(gateway, f"call-{number}") for number in range(len(bodies))]
        used = sum(line.get("input_tokens", 0) + line.get("output_tokens", 0) for line in lines)
        assert used == granted * 7
        wait_for("all is settled", lambda: remaining(gateway) == 10_000 - used)
