"""Token limits and models in front of a real llama.cpp server, with the counts that it reports itself."""

import json
import random

import httpx
import openai
import pytest

from gateway import Gateway, wait_for

MESSAGES = [{"role": "user", "content": "who goes there?"}]
KEYS = {
    "reader": ["--permissions", "read", "--tokens", "50M/1m"],
    "tight": ["--permissions", "read", "--tokens", "300/1h"],
    "other": ["--permissions", "read", "--models", "llama-*"],
    "capped": ["--permissions", "read", "--max-output-tokens", "7/lower"],
}


@pytest.fixture(scope="module")
def counting(llama):
    with Gateway(llama, KEYS, config="routes: llama-cpp") as gateway:
        yield gateway


def headers(gateway, key, request_id):
    return {"Authorization": f"Bearer {gateway.tokens[key]}", "X-Request-Id": request_id}


def line_of(gateway, request_id):
    """The access line of a request."""

    def found():
        lines = [json.loads(line) for line in gateway.lines if f'"{request_id}"' in line]
        return [line for line in lines if line.get("message") == "request"]

    wait_for(f"the line of {request_id}", found)
    return found()[0]


def reported(text):
    """Counts of input and output in llama.cpp's answer, JSON or a stream."""
    documents = [json.loads(line[5:]) for line in text.splitlines() if line.startswith("data:") and "[DONE]" not in line]
    documents = documents or [json.loads(text)]
    found = {}
    for document in documents:
        inner = [document, document.get("response") or {}, document.get("message") or {}]
        if timings := document.get("timings"):
            found.update(input=timings["cache_n"] + timings["prompt_n"], output=timings["predicted_n"])
        for usage in [part["usage"] for part in inner if isinstance(part, dict) and part.get("usage")]:
            if "prompt_tokens" in usage:
                found.update(input=usage["prompt_tokens"], output=usage.get("completion_tokens", 0))
                continue
            if "input_tokens" in usage:
                found["input"] = usage["input_tokens"] + usage.get("cache_read_input_tokens", 0)
            found["output"] = usage.get("output_tokens", found.get("output", 0))
    return found


def bodies(rng):
    words = " ".join(rng.choice(["bear", "ward", "key", "gate", "ünïcödé", "熊"]) for _ in range(rng.randrange(1, 60)))
    most, stream = rng.randrange(1, 40), rng.random() < 0.5
    yield "/v1/chat/completions", {"messages": [{"role": "user", "content": words}], "max_tokens": most, "stream": stream}
    yield "/v1/completions", {"prompt": words, "max_tokens": most, "stream": stream}
    yield "/completion", {"prompt": words, "n_predict": most, "stream": stream}
    yield "/v1/messages", {"messages": [{"role": "user", "content": words}], "max_tokens": most, "stream": stream}
    yield "/v1/responses", {"input": words, "max_output_tokens": most, "stream": stream}


def test_llama_cpps_own_counts_are_those_of_the_log(counting):
    rng = random.Random(20)
    for number in range(8):
        for path, body in bodies(rng):
            request_id = f"count-{number}-{path.replace('/', '-')}"
            body = {"model": "tiny", **body}
            with httpx.Client(timeout=60) as client:
                answer = client.post(counting.url + path, headers=headers(counting, "reader", request_id), json=body)
            assert answer.status_code == 200, answer.text
            line = line_of(counting, request_id)
            own = reported(answer.text)
            assert (line["input_tokens"], line["output_tokens"]) == (own["input"], own["output"]), (path, body, answer.text)
            assert line["tokens_by"] == "reported" and line["model"] == "tiny"


def test_a_limit_holds_and_the_sdk_reads_it(counting):
    sdk = openai.OpenAI(base_url=f"{counting.url}/v1", api_key=counting.tokens["tight"], max_retries=0)
    used = 0
    with pytest.raises(openai.RateLimitError) as refused:
        for _ in range(100):
            raw = sdk.chat.completions.with_raw_response.create(model="tiny", messages=MESSAGES, max_tokens=50)
            assert raw.headers["x-ratelimit-limit-tokens"] == "300"
            used += raw.parse().usage.total_tokens
    assert refused.value.code == "RATE_LIMIT_EXCEEDED"
    assert 200 <= used <= 301


def test_a_key_sees_and_uses_its_models_alone(counting):
    sdk = openai.OpenAI(base_url=f"{counting.url}/v1", api_key=counting.tokens["other"], max_retries=0)
    assert sdk.models.list().data == []
    with pytest.raises(openai.PermissionDeniedError) as refused:
        sdk.chat.completions.create(model="tiny", messages=MESSAGES)
    assert refused.value.code == "MODEL_NOT_ALLOWED"


def test_output_is_lowered(counting):
    sdk = openai.OpenAI(base_url=f"{counting.url}/v1", api_key=counting.tokens["capped"], max_retries=0)
    for options in [{"max_tokens": 500}, {}, {"max_completion_tokens": 500}]:
        answer = sdk.chat.completions.create(model="tiny", messages=MESSAGES, extra_body={"ignore_eos": True}, **options)
        assert answer.usage.completion_tokens == 7


def test_a_client_that_hangs_up_pays_for_what_it_got(counting):
    rng = random.Random(21)
    for number in range(10):
        request_id = f"gone-{number}"
        body = {"model": "tiny", "messages": MESSAGES, "max_tokens": 3000, "stream": True, "ignore_eos": True}
        with httpx.Client(timeout=60) as client:
            url = f"{counting.url}/v1/chat/completions"
            with client.stream("POST", url, headers=headers(counting, "reader", request_id), json=body) as answer:
                events, wanted = 0, rng.randrange(1, 200)
                for text in answer.iter_lines():
                    events += '"content":"' in text and '"content":""' not in text
                    if events >= wanted:
                        break
        line = line_of(counting, request_id)
        assert line["outcome"] == "client_left" and line["tokens_by"] == "counted"
        assert events <= line["output_tokens"] <= 3000
