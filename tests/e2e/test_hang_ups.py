"""Clients of a real llama.cpp server that hang up at a random byte of a stream, and the tokens that they pay."""

import concurrent.futures
import json
import random
import re
import time

import pytest

from gateway import Gateway, wait_for
from recorder import Recorder, body_of, own_counts
from scripted import connect, post, read_until, reset
from test_tokens import line_of

HANG_UPS = 300
LIMIT = 100_000_000
# So little comes back in a year's window that a test of a minute sees less than 200 of it.
KEYS = {"reader": ["--permissions", "read", "--tokens", f"{LIMIT}/365d"]}
CONTENT = re.compile(rb'(?:content|text|delta)":\s*"[^"]')


def requests(rng, count):
    """Path, body, declared output, and the bytes of the answer after which the client hangs up."""
    for _ in range(count):
        words = " ".join(rng.choice(["bear", "ward", "熊", "key"]) for _ in range(rng.randrange(1, 40)))
        most, messages = rng.choice([5, 40, 200, 500]), [{"role": "user", "content": words}]
        path, body = rng.choice([
            ("/v1/chat/completions", {"messages": messages, "max_tokens": most}),
            ("/v1/completions", {"prompt": words, "max_tokens": most}),
            ("/completion", {"prompt": words, "n_predict": most}),
            ("/v1/messages", {"messages": messages, "max_tokens": most}),
            ("/v1/responses", {"input": words, "max_output_tokens": most}),
        ])
        limit = rng.choice([0, rng.randrange(1, 200), rng.randrange(200, 3000), rng.randrange(200, 60_000)])
        yield path, {"model": "tiny", "stream": True, "ignore_eos": True, **body}, most, limit


def hang_up(gateway, relay, number, path, body, limit):
    """Receives at most `limit` bytes of an answer and hangs up. Returns these bytes."""
    side, seen = connect(gateway.port), b""
    side.sendall(post(path, gateway.tokens["reader"], json.dumps(body), f"X-Request-Id: gone-{number}\r\n"))
    # A client that is gone before its request was read has made no request.
    wait_for("the model server has the request", lambda: f"gone-{number}" in relay.exchanges)
    while len(seen) < limit and not seen.endswith(b"\r\n0\r\n\r\n") and (data := side.recv(limit - len(seen))):
        seen += data
    reset(side) if number % 2 else side.close()
    return seen


def events_with_content(body):
    """Number of events with a new piece of the output; the events at the end of a response repeat it."""
    repeats = (b"event: response.output_text.done", b"event: response.content_part", b"event: response.output_item", b"event: response.c")
    return sum(bool(CONTENT.search(event)) and not event.startswith(repeats) for event in body.split(b"\n\n")[:-1])


def remaining(gateway):
    """The key's tokens, from the head of an answer to a request that reserves none of the output."""
    side = connect(gateway.port)
    side.sendall(post("/v1/embeddings", gateway.tokens["reader"], '{"model":"tiny","input":[]}'))
    head = read_until(side, b"\r\n\r\n").lower()
    side.close()
    return int(re.search(rb"x-ratelimit-remaining-tokens: (\d+)", head)[1])


def bounds(exchange, seen, most):
    """The fewest and the most tokens of output that may be charged, of which the client has `seen` a part."""
    delivered = events_with_content(body_of(seen)) if b"\r\n\r\n" in seen else 0
    sent = exchange.body if b"\r\n\r\n" in exchange.answer else b""
    return delivered, max(events_with_content(sent), own_counts(sent)[2], most)


# `leave` and `ask`: llama.cpp's streams as they are, and with usage that bearward asks for.
@pytest.mark.parametrize("usage", ["leave", "ask"])
def test_clients_that_hang_up_pay_for_what_was_delivered(llama, usage):
    config, fields = "routes: llama-cpp", f", usage: {usage}"
    with Recorder(llama) as relay, Gateway(relay.port, KEYS, config=config, fields=fields) as gateway:
        made, started = list(enumerate(requests(random.Random(usage), HANG_UPS))), time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(hang_up, gateway, relay, number, path, body, limit) for number, (path, body, _, limit) in made]
            received = [job.result() for job in jobs]
        lines = [line_of(gateway, f"gone-{number}") for number, _ in made]
        assert len([line for line in gateway.lines if '"request","request_id":"gone-' in line]) == HANG_UPS
        assert sum(line["outcome"] == "client_left" for line in lines) > HANG_UPS / 2
        for (number, (path, _, most, limit)), seen, line in zip(made, received, lines):
            fewest, greatest = bounds(relay.exchanges[f"gone-{number}"], seen, most)
            assert fewest <= line["output_tokens"] <= greatest, (path, limit, line)
        used = sum(line["input_tokens"] + line["output_tokens"] for line in lines)
        left, back = remaining(gateway), LIMIT / (365 * 86_400) * (time.monotonic() - started)
        # The request that asks for the remaining tokens has an input of two tokens at most.
        assert LIMIT - used - 2 <= left <= LIMIT - used + back + 1, (used, back)
