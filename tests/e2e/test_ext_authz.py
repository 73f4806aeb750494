"""Envoy's ext_authz over gRPC with grpcio and Envoy's own messages: right answers, deadlines, cancelled calls, large bodies, garbage."""

import concurrent.futures
import json
import os
import random
import socket

import grpc
import pytest
from envoy_protos import auth, base_pb2
from gateway import Gateway, wait_for
from google.protobuf import json_format

CHECK = "/envoy.service.auth.v3.Authorization/Check"
CONFIG = """
cors: {origins: ["https://app.example.com"]}
routes:
  - {name: admin, paths: [/admin/**], permission: admin}
  - {name: chat, paths: [/v1/chat/completions], methods: [POST], permission: read, model_in: body}
  - {name: generate, paths: ["/v2/models/{model}/generate"], methods: [POST], permission: read, model_in: path}
  - {name: v1, paths: [/v1/**], permission: read, removes: [x_tenant]}
"""
KEYS = {
    "good": ["--permissions", "read", "--rate", "1000000/1m/1000000"],
    "once": ["--permissions", "read", "--rate", "1/1h/1"],
    "llama": ["--permissions", "read", "--models", "llama-*"],
    "capped": ["--permissions", "read", "--max-output-tokens", "100"],
    "near": ["--permissions", "read", "--allow-from", "127.0.0.0/8"],
    "input": ["--permissions", "read", "--input-tokens", "100/1h/100"],
}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def gateway():
    # Nothing is sent to the upstream.
    with Gateway(9, KEYS, config=CONFIG, admin=True, listener="127.0.0.1:0, serves: ext_authz") as gateway:
        yield gateway


@pytest.fixture(scope="module")
def check(gateway):
    with grpc.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        yield channel.unary_unary(
            CHECK, request_serializer=auth.CheckRequest.SerializeToString, response_deserializer=auth.CheckResponse.FromString
        )


def question(key=None, path="/v1/x", method="GET", headers=(), body=None, host="a.example", raw=True, address="192.0.2.7"):
    """Question as Envoy asks it, with `encode_raw_headers` or without."""
    asked = auth.CheckRequest()
    asked.attributes.source.address.socket_address.address = address
    http = asked.attributes.request.http
    http.method, http.path, http.host, http.scheme, http.protocol = method, path, host, "http", "HTTP/1.1"
    sent = [(":method", method), (":path", path), (":authority", host), *headers]
    if key:
        sent.append(("authorization", f"Bearer {key}"))
    if body is not None:
        http.raw_body = body
        if not any(name == "content-length" for name, _ in sent):
            sent.append(("content-length", str(len(body))))
    for name, value in sent:
        if raw:
            value = value.encode() if isinstance(value, str) else value
            http.header_map.headers.append(base_pb2.HeaderValue(key=name, raw_value=value))
        else:
            http.headers[name] = f"{http.headers[name]},{value}" if name in http.headers else value
    return asked


def shown(answer):
    """The status of a denial and its code, or 200 and None."""
    if answer.HasField("ok_response"):
        assert answer.status.code == 0
        return 200, None
    assert answer.status.code != 0
    body = json.loads(answer.denied_response.body)
    return answer.denied_response.status.code, body["error"]["code"]


def set_by(headers):
    """Headers that replace others of their names. `vary` alone is added to one that is there."""
    actions = {header.header.key: header.append_action for header in headers}
    replaces = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    assert all(action == replaces or name == "vary" for name, action in actions.items()), actions
    return {header.header.key: header.header.value for header in headers}


@pytest.mark.parametrize("raw", [True, False])
def test_a_request_passes_with_the_identity_of_its_key(gateway, check, raw):
    headers = [("x-api-key", "k"), ("x-bearward-key-id", "evil"), ("x_bearward_key_id", "evil"), ("x-request-id", "req-1")]
    headers += [("x-http-method-override", "DELETE"), ("x-tenant", "evil"), ("remote-user", "admin"), ("accept", "*/*")]
    answer = check(question(gateway.tokens["good"], headers=headers, raw=raw), timeout=10)
    assert shown(answer) == (200, None)
    sent = set_by(answer.ok_response.headers)
    assert sent["x-bearward-key-name"] == "good" and sent["x-bearward-environment"] == "-"
    assert sent["x-request-id"] == "req-1" and sent["x-bearward-permissions"] == "read"
    removed = set(answer.ok_response.headers_to_remove)
    assert {"authorization", "x-api-key", "x_bearward_key_id", "x-http-method-override", "x-tenant", "remote-user"} <= removed
    assert not removed & {"accept", "x-request-id", "x-bearward-key-id", "host"}
    assert "ratelimit" in set_by(answer.ok_response.response_headers_to_add)
    facts = json_format.MessageToDict(answer.dynamic_metadata)
    assert facts == {"key_id": sent["x-bearward-key-id"], "route": "v1"}


REFUSED = {
    "no key": (question(), 401, "MISSING_API_KEY"),
    "another key": (question("sk-nonsense"), 401, "INVALID_API_KEY"),
    "two keys": (question("GOOD", headers=[("authorization", "Bearer other")]), 400, "BAD_REQUEST"),
    "joined keys": (question("GOOD", headers=[("authorization", "Bearer other")], raw=False), 401, "INVALID_API_KEY"),
    "permission": (question("GOOD", "/admin/x"), 403, "INSUFFICIENT_PERMISSIONS"),
    "route": (question("GOOD", "/other"), 404, "ROUTE_NOT_FOUND"),
    "dots": (question("GOOD", "/v1/../v1/x"), 400, "BAD_REQUEST"),
    "encoded": (question("GOOD", "/%761/x"), 400, "BAD_REQUEST"),
    "hidden byte": (question("GOOD", "/v1/x!", raw=False), 400, "BAD_REQUEST"),
    "another path": (question("GOOD", headers=[(":path", "/admin/x")]), 400, "BAD_REQUEST"),
    "another host": (question("GOOD", headers=[("host", "b.example")]), 400, "BAD_REQUEST"),
    "no host": (question("GOOD", host=""), 400, "BAD_REQUEST"),
    "no method": (question("GOOD", method=""), 400, "BAD_REQUEST"),
    "no path": (question("GOOD", ""), 400, "BAD_REQUEST"),
    "lower case": (question("GOOD", method="get"), 400, "BAD_REQUEST"),
    "trace": (question("GOOD", method="TRACE"), 405, "METHOD_NOT_ALLOWED"),
    "body on GET": (question("GOOD", body=b"x"), 400, "BAD_REQUEST"),
    "unannounced body on GET": (question("GOOD", body=b"x", headers=[("transfer-encoding", "chunked")]), 400, "BAD_REQUEST"),
    "no address": (question("GOOD", address=""), 400, "BAD_REQUEST"),
    "too many headers": (question("GOOD", headers=[("x-a", "1")] * 30_000), 431, "HEADERS_TOO_LARGE"),
    "too large a body": (question("GOOD", CHAT, "POST", [("content-length", "99999999")]), 413, "PAYLOAD_TOO_LARGE"),
    "an upgrade": (question("GOOD", headers=[("upgrade", "websocket")]), 400, "BAD_REQUEST"),
    "no request": (auth.CheckRequest(), 400, "BAD_REQUEST"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_an_answer_with_its_status_and_body(gateway, check, name):
    asked, status, code = REFUSED[name]
    copy = auth.CheckRequest()
    copy.CopyFrom(asked)
    for header in copy.attributes.request.http.header_map.headers:
        header.raw_value = header.raw_value.replace(b"GOOD", gateway.tokens["good"].encode())
    for header, value in copy.attributes.request.http.headers.items():
        copy.attributes.request.http.headers[header] = value.replace("GOOD", gateway.tokens["good"])
    answer = check(copy, timeout=10)
    assert shown(answer) == (status, code)
    headers = set_by(answer.denied_response.headers)
    assert headers["content-type"] == "application/json" and headers["x-request-id"]
    assert json_format.MessageToDict(answer.dynamic_metadata)["code"] == code


def test_a_used_up_limit_says_how_long_to_wait(gateway, check):
    assert shown(check(question(gateway.tokens["once"]), timeout=10)) == (200, None)
    answer = check(question(gateway.tokens["once"]), timeout=10)
    assert shown(answer) == (429, "RATE_LIMIT_EXCEEDED")
    assert int(set_by(answer.denied_response.headers)["retry-after"]) > 3000


def test_a_client_without_an_address_is_not_the_proxy(gateway, check):
    for key, expected in (("good", (200, None)), ("near", (401, "INVALID_API_KEY"))):
        asked = question(gateway.tokens[key])
        asked.attributes.ClearField("source")
        assert shown(check(asked, timeout=10)) == expected


def chat(**members):
    return json.dumps({"model": "llama-3", "messages": [{"role": "user", "content": "Hello"}]} | members).encode()


UNSEEN = (403, "UNENFORCEABLE_LIMIT")
BODIES = [
    ("llama", CHAT, chat(), {}, (200, None)),
    ("llama", CHAT, chat(model="gpt-5"), {}, (403, "MODEL_NOT_ALLOWED")),
    ("llama", CHAT, b'{"model":"llama-3","model":"gpt-5"}', {}, (400, "BAD_REQUEST")),
    ("llama", CHAT, chat()[:-1], {"content-length": str(len(chat()))}, UNSEEN),
    ("llama", CHAT, chat(), {"transfer-encoding": "chunked", "content-length": None}, UNSEEN),
    ("llama", CHAT, None, {"content-length": "40"}, UNSEEN),
    ("llama", CHAT, chat(), {"content-encoding": "gzip"}, (400, "BAD_REQUEST")),
    ("llama", "/v2/models/llama-3/generate", b'{"adapter_id":"gpt-5"}', {}, (400, "BAD_REQUEST")),
    ("llama", "/v2/models/llama-3/generate", None, {"content-length": "40"}, UNSEEN),
    ("llama", "/v2/models/llama-3/generate", b'{"text_input":"a"}', {}, (200, None)),
    ("capped", CHAT, chat(max_tokens=50), {}, (200, None)),
    ("capped", CHAT, chat(max_tokens=50, n=4), {}, (400, "OUTPUT_LIMIT_EXCEEDED")),
    ("capped", CHAT, chat(), {}, (400, "OUTPUT_LIMIT_EXCEEDED")),
    ("capped", CHAT, None, {"content-length": "40"}, UNSEEN),
    ("good", CHAT, None, {"content-length": "40"}, (200, None)),
]


@pytest.mark.parametrize(("key", "path", "body", "headers", "expected"), BODIES)
def test_what_a_body_says_counts_where_the_whole_body_is_seen(gateway, check, key, path, body, headers, expected):
    asked = question(gateway.tokens[key], path, "POST", [(name, value) for name, value in headers.items() if value], body)
    if "content-length" in headers and headers["content-length"] is None:
        kept = [header for header in asked.attributes.request.http.header_map.headers if header.key != "content-length"]
        del asked.attributes.request.http.header_map.headers[:]
        asked.attributes.request.http.header_map.headers.extend(kept)
    assert shown(check(asked, timeout=10)) == expected


def test_tokens_of_the_input_are_charged_by_estimate(gateway, check):
    long = chat(messages=[{"role": "user", "content": "word " * 40}])
    asked = question(gateway.tokens["input"], CHAT, "POST", body=long)
    assert shown(check(asked, timeout=10)) == (200, None)
    answer = check(asked, timeout=10)
    assert shown(answer) == (429, "RATE_LIMIT_EXCEEDED")
    assert json.loads(answer.denied_response.body)["error"]["details"]["policy"] == "input-tokens-1h"


def test_a_preflight_is_answered_without_a_key(check):
    origin = ("origin", "https://app.example.com")
    answer = check(question(method="OPTIONS", headers=[origin, ("access-control-request-method", "GET")]), timeout=10)
    # With the status 0, Envoy would let it pass.
    assert answer.status.code != 0 and not answer.HasField("ok_response")
    assert answer.denied_response.status.code == 204
    allowed = {header.header.key: header.header.value for header in answer.denied_response.headers}
    assert allowed["access-control-allow-origin"] == "https://app.example.com"


def test_ten_thousand_checks_are_all_answered_rightly_and_nothing_leaks(gateway, check):
    good, seed = gateway.tokens["good"], random.Random(7)
    megabyte = chat(messages=[{"role": "user", "content": "x" * (1 << 20)}])
    kinds = [
        (question(good), (200, None)),
        (question("sk-nonsense"), (401, "INVALID_API_KEY")),
        (question(), (401, "MISSING_API_KEY")),
        (question(good, "/admin/x"), (403, "INSUFFICIENT_PERMISSIONS")),
        (question(gateway.tokens["llama"], CHAT, "POST", body=chat()), (200, None)),
        (question(gateway.tokens["llama"], CHAT, "POST", body=chat(model="b")), (403, "MODEL_NOT_ALLOWED")),
    ]
    large = (question(gateway.tokens["llama"], CHAT, "POST", body=megabyte), (200, None))

    def one(number):
        asked, expected = large if number % 200 == 0 else seed.choice(kinds)
        if number % 10 == 3:
            # A call that is cancelled, or whose deadline passes, gets a decision in time or none.
            call = check.future(asked, timeout=seed.choice([0.0001, 0.001, 10]))
            if seed.random() < 0.5:
                call.cancel()
            try:
                return shown(call.result()) == expected
            except (grpc.FutureCancelledError, grpc.RpcError):
                return True
        return shown(check(asked, timeout=20)) == expected

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(2_000)))
        before = gateway.rss_kib()
        assert all(pool.map(one, range(2_000, 10_000)))
    wait_for("no check is in flight", lambda: gateway.admin_status()["requests_in_flight"] == 0)
    # The allocator's caches may grow a little.
    assert gateway.rss_kib() - before < 24 << 10, (before, gateway.rss_kib())


def call(gateway, data, metadata=(), path=CHECK, timeout=10):
    """The status of a call with these bytes as its message."""
    with grpc.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        with pytest.raises(grpc.RpcError) as failed:
            channel.unary_unary(path)(data, timeout=timeout, metadata=metadata)
        return failed.value.code()


def test_what_is_no_question_has_no_decision(gateway):
    code = grpc.StatusCode
    assert call(gateway, b"\xff" * 100) == code.INVALID_ARGUMENT
    assert call(gateway, os.urandom(1 << 16)) == code.INVALID_ARGUMENT
    assert call(gateway, question().SerializeToString(), path="/envoy.service.auth.v2.Authorization/Check") == code.UNIMPLEMENTED
    assert call(gateway, question().SerializeToString(), path="/grpc.health.v1.Health/Check") == code.UNIMPLEMENTED
    assert call(gateway, b"\x00" * (5 << 20)) == code.RESOURCE_EXHAUSTED


def test_random_messages_are_never_granted(gateway, check):
    """Messages with altered bytes are refused, or no questions, and the process goes on."""
    seed = random.Random(11)
    original = question("sk-nonsense", CHAT, "POST", [("x-a", "1")], chat()).SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        raw = channel.unary_unary(CHECK, response_deserializer=auth.CheckResponse.FromString)
        for _ in range(2_000):
            data = bytearray(original)
            for _ in range(seed.randint(1, 8)):
                data[seed.randrange(len(data))] = seed.randrange(256)
            try:
                assert not raw(bytes(data), timeout=10).HasField("ok_response")
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
    assert shown(check(question(gateway.tokens["good"]), timeout=10)) == (200, None)
    assert not any("panicked" in line for line in gateway.lines)


def test_http_1_gets_no_decision(gateway):
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as connection:
        connection.sendall(f"POST {CHECK} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("over", ["tls", "unix"])
def test_envoy_asks_over_tls_and_over_a_unix_socket_too(over, tmp_path):
    path = tmp_path / "door.sock"
    listener = f"unix:{path}, serves: ext_authz" if over == "unix" else "127.0.0.1:0, serves: ext_authz"
    with Gateway(9, KEYS, config=CONFIG, listener=listener, tls=over == "tls") as gateway:
        if over == "tls":
            with open(gateway.ca, "rb") as ca:
                channel = grpc.secure_channel(f"localhost:{gateway.port}", grpc.ssl_channel_credentials(ca.read()))
        else:
            # As Envoy does, and unlike gRPC's own name of a socket, the authority is a host.
            channel = grpc.insecure_channel(f"unix:{path}", options=[("grpc.default_authority", "bearward")])
        with channel:
            serializers = (auth.CheckRequest.SerializeToString, auth.CheckResponse.FromString)
            check = channel.unary_unary(CHECK, *serializers)
            assert shown(check(question(gateway.tokens["good"]), timeout=10)) == (200, None)
            assert shown(check(question(), timeout=10)) == (401, "MISSING_API_KEY")
