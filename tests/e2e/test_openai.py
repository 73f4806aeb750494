"""The OpenAI SDK, unchanged, through bearward over TLS to a real llama.cpp server."""

import ssl
import time

import httpx
import openai
import pytest

MESSAGES = [{"role": "user", "content": "who goes there?"}]


def trust(gateway):
    return ssl.create_default_context(cafile=gateway.ca)


def client(gateway, key, **options):
    return openai.OpenAI(
        base_url=f"{gateway.url}/v1",
        api_key=gateway.tokens.get(key, key),
        http_client=httpx.Client(verify=trust(gateway), http2=options.pop("http2", False)),
        **options,
    )


@pytest.fixture(params=[False, True], ids=["http1", "http2"])
def sdk(request, gateway):
    return client(gateway, "reader", http2=request.param)


def test_models_are_listed(sdk):
    assert len(sdk.models.list().data) == 1


def test_a_chat(sdk):
    answer = sdk.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=12)
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens > 0


def test_a_chat_is_streamed_piece_by_piece(sdk):
    stream = sdk.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=40, stream=True)
    pieces = [chunk.choices[0].delta.content for chunk in stream if chunk.choices]
    assert len([piece for piece in pieces if piece]) > 5


def test_completions_and_tokens(gateway, sdk):
    assert sdk.completions.create(model="tiny", prompt="a bear", max_tokens=5).choices[0].text
    with httpx.Client(verify=trust(gateway)) as plain:
        headers = {"Authorization": f"Bearer {gateway.tokens['reader']}"}
        answer = plain.post(f"{gateway.url}/tokenize", headers=headers, json={"content": "a bear"})
        assert answer.json()["tokens"]


def test_a_wrong_key_is_an_authentication_error(gateway):
    with pytest.raises(openai.AuthenticationError) as caught:
        client(gateway, "sk-not-a-key").models.list()
    assert caught.value.status_code == 401
    assert caught.value.code == "INVALID_API_KEY"
    assert caught.value.request_id


def test_an_expired_key_has_its_own_error_code(gateway):
    with pytest.raises(openai.AuthenticationError) as caught:
        client(gateway, "expired").models.list()
    assert caught.value.code == "EXPIRED_API_KEY"


def test_a_missing_permission_is_a_permission_error(gateway):
    with pytest.raises(openai.PermissionDeniedError) as caught:
        client(gateway, "only-write").models.list()
    assert (caught.value.status_code, caught.value.code) == (403, "INSUFFICIENT_PERMISSIONS")
    assert caught.value.body["details"] == {"required": "read", "granted": ["write"]}


def test_a_limit_is_a_rate_limit_error_and_the_sdks_own_retry_succeeds(gateway):
    impatient = client(gateway, "limited", max_retries=0)
    impatient.models.list()
    with pytest.raises(openai.RateLimitError) as caught:
        impatient.models.list()
    assert (caught.value.status_code, caught.value.code) == (429, "RATE_LIMIT_EXCEEDED")
    assert int(caught.value.response.headers["retry-after"]) >= 1
    # With default settings, the SDK waits for Retry-After and then succeeds.
    started = time.monotonic()
    assert client(gateway, "limited").models.list().data
    assert time.monotonic() - started < 15


def test_paths_outside_the_preset_are_not_found(gateway):
    with httpx.Client(verify=trust(gateway)) as plain:
        headers = {"Authorization": f"Bearer {gateway.tokens['writer']}"}
        for path in ("/metrics", "/slots", "/props", "/v1/unknown"):
            answer = plain.get(gateway.url + path, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "ROUTE_NOT_FOUND"), path
        assert plain.get(f"{gateway.url}/health").status_code == 200
