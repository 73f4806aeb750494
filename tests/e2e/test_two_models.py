"""Two real llama.cpp servers with a model each, behind one listener."""

import httpx
import openai
import pytest

from conftest import llama_server
from gateway import Gateway, wait_for
from recorder import Recorder

MESSAGES = [{"role": "user", "content": "who goes there?"}]
KEYS = {"all": ["--permissions", "read"], "small": ["--permissions", "read", "--models", "bear-*"]}
ROUTES = """
routes:
  - {name: chat-large, paths: [/v1/chat/completions], permission: read, model_in: body, models: ["wolf-*"], upstream: large}
  - {name: chat-small, paths: [/v1/chat/completions], permission: read, model_in: body, models: ["bear-*"]}
  - {name: models, paths: [/v1/models], permission: read, model_in: list}
"""


@pytest.fixture
def servers():
    """The processes of both servers, relays in front of them, and bearward in front of the relays."""
    with llama_server("bear-1b") as (bear, _), llama_server("wolf-70b") as (wolf, large):
        with Recorder(bear) as to_bear, Recorder(wolf) as to_wolf:
            more = f"{{name: large, endpoints: [http://127.0.0.1:{to_wolf.port}], retries: 0}}"
            with Gateway(to_bear.port, KEYS, config=ROUTES, more_upstreams=more) as gateway:
                yield gateway, to_bear, to_wolf, large


def chat(sdk, model, stream=False):
    answer = sdk.chat.completions.create(model=model, messages=MESSAGES, max_tokens=5, stream=stream)
    return {chunk.model for chunk in answer} if stream else {answer.model}


def models(gateway, key):
    """The listed models, and the upstreams that are missing in the list."""
    headers = {"Authorization": f"Bearer {gateway.tokens[key]}"}
    answer = httpx.get(f"{gateway.url}/v1/models", headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return {model["id"] for model in answer.json()["data"]}, answer.headers.get("x-bearward-partial")


def test_each_request_goes_to_the_server_of_its_model(servers):
    gateway, to_bear, to_wolf, large = servers
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.tokens["all"], max_retries=0) as every,
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.tokens["small"], max_retries=0) as small,
    ):
        for stream in (False, True):
            assert chat(every, "bear-1b", stream) == {"bear-1b"}
            assert chat(every, "wolf-70b", stream) == {"wolf-70b"}
        assert (len(to_bear.exchanges), len(to_wolf.exchanges)) == (2, 2)
        with pytest.raises(openai.NotFoundError) as unknown:
            chat(every, "fox-3b")
        assert unknown.value.code == "ROUTE_NOT_FOUND"

        assert models(gateway, "all") == ({"bear-1b", "wolf-70b"}, None)
        assert [model.id for model in small.models.list()] == ["bear-1b"]
        assert chat(small, "bear-1b") == {"bear-1b"}
        asked = len(to_wolf.exchanges)
        with pytest.raises(openai.PermissionDeniedError) as refused:
            chat(small, "wolf-70b")
        assert refused.value.code == "MODEL_NOT_ALLOWED" and len(to_wolf.exchanges) == asked

        large.kill()
        large.wait()
        wait_for("the list is partial", lambda: models(gateway, "all") == ({"bear-1b"}, "large"))
        assert chat(every, "bear-1b") == {"bear-1b"}
        with pytest.raises(openai.InternalServerError) as unreachable:
            chat(every, "wolf-70b")
        assert unreachable.value.status_code in (502, 503)
