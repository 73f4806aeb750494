"""The bytes of 1,000 answers, which are the same through bearward as without it.

The requests are those of real clients, byte for byte. bearward asks for the usage of streams, and
the clients see nothing of it.
"""

import concurrent.futures
import gzip
import http.client
import random

import pytest

import answers
import clients
from gateway import Gateway
from recorder import Recorder, header
from scripted import Scripted, connect

ANSWERS = 1000
KEYS = {"limited": ["--permissions", "read", "--tokens", "500M/1d"]}
PLACEHOLDER = "key-of-the-client"


@pytest.fixture(scope="module")
def recorded(llama, embedder):
    """Requests of all clients, as bytes, recorded in front of real servers."""
    kinds = {client: [kind for kind in of_client if kind != "native"] for client, of_client in clients.KINDS.items()}
    made = list(clients.calls(random.Random(3), 90, PLACEHOLDER, "record", kinds))
    with Recorder(llama) as models, Recorder(embedder) as vectors:
        relays = {True: vectors, False: models}
        for of_vectors, relay in relays.items():
            url = f"http://127.0.0.1:{relay.port}"
            calls = [call for call in made if (call.kind == "embeddings") == of_vectors]
            with clients.Clients(url) as ours:
                for call in calls:
                    if call.client != "vercel":
                        ours.make(call)
            clients.make_by_vercel(url, [call for call in calls if call.client == "vercel"])
        return [exchange.request for relay in relays.values() for exchange in relay.exchanges.values()]


def received(port, request):
    """Status, type, encoding and body of the answer that a client gets."""
    with connect(port) as side:
        side.sendall(request)
        answer = http.client.HTTPResponse(side, method="POST")
        answer.begin()
        return answer.status, answer.headers["content-type"], answer.headers["content-encoding"], answer.read()


def numbered(request, number, key):
    """The request with the number of the answer that the upstream gives, and with a key."""
    line, rest = request.replace(PLACEHOLDER.encode(), key.encode()).split(b"\r\n", 1)
    return line + b"\r\nX-Number: %d\r\n" % number + rest


def send(side, request):
    """Sends the answer with the number that the request has. Returns whether the connection goes on."""
    head, *rest = answers.answer(int(header(request, "x-number")), request)
    side.sendall(head)
    for piece in rest:
        side.sendall(piece)
    return b"connection: close" not in head


def test_1000_answers_have_the_same_bytes_as_without_bearward(recorded):
    with Scripted(send) as upstream, Gateway(upstream.port, KEYS) as gateway:
        key = gateway.tokens["limited"]

        def differs(number):
            request = numbered(recorded[number % len(recorded)], number, key)
            *direct, body = received(upstream.port, request)
            *through, same = received(gateway.port, request)
            # bearward asks for streams that are not compressed where it asks for their usage.
            if (direct[2], through[2]) == ("gzip", None):
                body, direct[2] = gzip.decompress(body), None
            return None if (direct, body) == (through, same) else (number, request, direct, body, through, same)

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            differing = [found for found in pool.map(differs, range(ANSWERS)) if found]
        assert not differing, "\n".join([f"{len(differing)} of {ANSWERS}", *map(str, differing[:3])])
        asked = sum(b'{"stream_options":{"include_usage":true},' in request for request in upstream.requests)
        assert asked > ANSWERS / 5, "bearward asked for the usage"
