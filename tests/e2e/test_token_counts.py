"""bearward's counts of tokens, compared with those that a real llama.cpp server sends to it.

A relay between both records what llama.cpp sent, also what bearward takes out of the answer.
"""

import concurrent.futures
import random

import httpx
import pytest

import clients
from gateway import Gateway
from recorder import Recorder, documents, own_counts
from test_tokens import line_of

REQUESTS = 300
KEYS = {"reader": ["--permissions", "read", "--tokens", "50M/1m"]}
EMBEDDINGS = """
routes:
  - {name: vectors, paths: [/v1/embeddings], permission: read, model_in: body, upstream: embedder}
  - {name: native, paths: [/completion], permission: read, model_in: body}
  - preset: ROUTES
"""


@pytest.fixture(scope="module")
def relays(llama, embedder):
    with Recorder(llama) as model, Recorder(embedder) as vectors:
        yield model, vectors


# `llama-cpp` leaves streams as they are; `openai` asks llama.cpp for the usage of streams.
@pytest.mark.parametrize("routes", ["llama-cpp", "openai"])
def test_the_counts_of_300_mixed_requests_are_llama_cpps_own(relays, routes):
    model, vectors = relays
    more = f"{{name: embedder, endpoints: [http://127.0.0.1:{vectors.port}]}}"
    config = EMBEDDINGS.replace("ROUTES", routes)
    with Gateway(model.port, KEYS, config=config, more_upstreams=more) as gateway:
        made = list(clients.calls(random.Random(20), REQUESTS, gateway.tokens["reader"], routes))
        with clients.Clients(gateway.url) as ours, concurrent.futures.ThreadPoolExecutor(4) as pool:
            by_vercel = [call for call in made if call.client == "vercel"]
            jobs = [pool.submit(clients.make_by_vercel, gateway.url, by_vercel)]
            jobs += [pool.submit(ours.make, call) for call in made if call.client != "vercel"]
            for job in jobs:
                job.result()
        recorded = {**model.exchanges, **vectors.exchanges}
        differing, without_input = [], []
        for call in made:
            line, own = line_of(gateway, call.id), own_counts(recorded[call.id].body)
            of_bearward = (line["input_tokens"], line.get("cached_tokens"), line["output_tokens"])
            if own[0] is None and call.kind == "messages":
                # llama.cpp leaves out `message_start` if the first token is a part of a character.
                without_input.append(call)
                of_bearward = (None, *of_bearward[1:])
            # An SDK that closes its connection behind the last event may be earlier than the answer's end.
            ways = ("reported", "counted") if line["outcome"] == "client_left" else ("reported",)
            if of_bearward != own or line["tokens_by"] not in ways:
                differing.append((call, own, line))
        assert len(without_input) < 5
        assert not differing, "\n".join([f"{len(differing)} of {len(made)}", *map(str, differing[:3])])


@pytest.mark.parametrize("more", [{"prompt": ["a bear", "a key"]}, {"prompt": "a bear", "n_cmpl": 2}])
def test_a_list_of_answers_is_counted_once(llama, more):
    body = {"model": "tiny", "n_predict": 9, "ignore_eos": True, **more}
    with Recorder(llama) as relay, Gateway(relay.port, KEYS, config="routes: llama-cpp") as gateway:
        headers = {"Authorization": f"Bearer {gateway.tokens['reader']}", "X-Request-Id": "list"}
        assert httpx.post(f"{gateway.url}/completion", headers=headers, json=body, timeout=60).status_code == 200
        line, own = line_of(gateway, "list"), own_counts(relay.exchanges["list"].body)
        assert own[2] == 18
        assert (line["input_tokens"], line["cached_tokens"], line["output_tokens"]) == own


@pytest.mark.parametrize("routes", ["llama-cpp", "openai"])
def test_streams_have_the_same_members_as_without_bearward(llama, routes):
    body = {"model": "tiny", "messages": [{"role": "user", "content": "a bear"}], "max_tokens": 5, "stream": True, "temperature": 0, "seed": 1}
    # An upstream that is asked for the usage moves `timings` to the chunk that bearward removes.
    fields = ", usage: leave" if routes == "openai" else ""
    with Gateway(llama, KEYS, config=f"routes: {routes}", fields=fields) as gateway:
        headers = {"Authorization": f"Bearer {gateway.tokens['reader']}"}
        urls = [gateway.url, f"http://127.0.0.1:{llama}"]
        texts = [httpx.post(f"{url}/v1/chat/completions", headers=headers, json=body, timeout=60).content for url in urls]
        through, direct = [[set(document) for document in documents(text)] for text in texts]
        assert through == direct
