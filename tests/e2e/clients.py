"""The clients that people use in front of model servers, each of which makes one call at a time.

A call names its client, the kind of its request, whether the answer is streamed, the words of the
input, and the most tokens of the output.
"""

import dataclasses
import json
import os
import shutil
import subprocess

import anthropic
import httpx
import langchain_openai
import openai
import pytest

from gateway import CACHE

NODE = CACHE / "node" / "node_modules"
KINDS = {
    "httpx": ["chat", "completions", "embeddings", "messages", "responses", "native"],
    "openai": ["chat", "completions", "embeddings", "responses"],
    "anthropic": ["messages"],
    "langchain": ["chat", "completions", "embeddings", "responses"],
    # Its provider for `responses` does not accept the events of llama.cpp, with or without bearward.
    "vercel": ["chat", "completions", "embeddings"],
}


@dataclasses.dataclass
class Call:
    client: str
    kind: str
    id: str
    key: str
    words: str
    most: int
    stream: bool

    @property
    def headers(self):
        return {"x-request-id": self.id}

    @property
    def messages(self):
        return [{"role": "user", "content": self.words}]


def calls(rng, count, key, prefix, kinds=KINDS):
    """A number of calls by all clients in turn, of each kind, streamed or not."""
    of_clients = [(client, kind) for client, of_client in kinds.items() for kind in of_client]
    for number in range(count):
        client, kind = of_clients[number % len(of_clients)]
        words = " ".join(rng.choice(["bear", "ward", "key", "gate", "ünïcödé", "熊"]) for _ in range(rng.randrange(1, 60)))
        stream = kind != "embeddings" and rng.random() < 0.6
        yield Call(client, kind, f"{prefix}-{number}-{client}-{kind}", key, words, rng.randrange(1, 40), stream)


class Clients:
    """The clients in Python, with the connections that they share."""

    def __init__(self, url):
        self.url, self.http = url, httpx.Client(timeout=60)

    def make(self, call):
        """Makes one call. Raises an exception if the client does not understand the answer."""
        {"httpx": self.httpx, "openai": self.openai, "anthropic": self.anthropic, "langchain": self.langchain}[call.client](call)

    def httpx(self, call):
        chat = {"messages": call.messages, "max_tokens": call.most, "stream": call.stream}
        path, body = {
            "chat": ("/v1/chat/completions", chat),
            "completions": ("/v1/completions", {"prompt": call.words, "max_tokens": call.most, "stream": call.stream}),
            "embeddings": ("/v1/embeddings", {"input": [call.words, "a bear"]}),
            "messages": ("/v1/messages", chat),
            "responses": ("/v1/responses", {"input": call.words, "max_output_tokens": call.most, "stream": call.stream}),
            "native": ("/completion", {"prompt": call.words, "n_predict": call.most, "stream": call.stream}),
        }[call.kind]
        headers = {**call.headers, "authorization": f"Bearer {call.key}"}
        answer = self.http.post(self.url + path, headers=headers, json={"model": "tiny", **body})
        assert answer.status_code == 200, answer.text

    def openai(self, call):
        # The SDK's own default asks for no usage; half of the callers ask.
        asks = {"stream_options": {"include_usage": True}} if call.stream and len(call.words) % 2 else {}
        options = {"api_key": call.key, "max_retries": 0, "default_headers": call.headers, "http_client": self.http}
        sdk = openai.OpenAI(base_url=f"{self.url}/v1", **options)
        common = {"model": "tiny", "stream": call.stream}
        match call.kind:
            case "chat":
                answer = sdk.chat.completions.create(messages=call.messages, max_completion_tokens=call.most, **common, **asks)
            case "completions":
                answer = sdk.completions.create(prompt=call.words, max_tokens=call.most, **common, **asks)
            case "embeddings":
                answer = sdk.embeddings.create(model="tiny", input=call.words)
            case "responses":
                answer = sdk.responses.create(input=call.words, max_output_tokens=call.most, **common)
        assert list(answer)

    def anthropic(self, call):
        options = {"api_key": call.key, "max_retries": 0, "default_headers": call.headers}
        with anthropic.Anthropic(base_url=self.url, **options) as sdk:
            answer = sdk.messages.create(model="tiny", messages=call.messages, max_tokens=call.most, stream=call.stream)
            assert list(answer)

    def langchain(self, call):
        options = {"api_key": call.key, "max_retries": 0, "default_headers": call.headers, "http_client": self.http}
        common = {"model": "tiny", "base_url": f"{self.url}/v1", **options}
        match call.kind:
            case "embeddings":
                langchain_openai.OpenAIEmbeddings(**common, check_embedding_ctx_length=False).embed_query(call.words)
                return
            case "completions":
                model = langchain_openai.OpenAI(**common, max_tokens=call.most)
            case kind:
                model = langchain_openai.ChatOpenAI(**common, max_tokens=call.most, use_responses_api=kind == "responses")
        answer = model.stream(call.words) if call.stream else [model.invoke(call.words)]
        assert list(answer)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.http.close()


def make_by_vercel(url, calls):
    """Makes calls by the Vercel AI SDK, one after the other."""
    if not shutil.which("node") or not NODE.exists():
        pytest.fail("the packages of the JavaScript clients are not installed: run `make e2e-setup`")
    text = json.dumps({"url": url, "calls": [dataclasses.asdict(call) for call in calls]})
    script = os.path.join(os.path.dirname(__file__), "vercel.cjs")
    environment = {**os.environ, "NODE_PATH": str(NODE), "AI_SDK_LOG_WARNINGS": "false"}
    done = subprocess.run(["node", script], input=text, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
