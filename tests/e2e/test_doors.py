"""The same requests to bearward itself and through each real proxy that asks it: the same answers, or the documented difference.

docs/doors.md lists the differences; `DIFFERENT` below is that list, for the requests of this table.
"""

import contextlib
import json
import os
import queue
import signal
import socket
import threading
import time

import grpc
import pytest
from gateway import Gateway, free_port, wait_for
from grpc_service import SERVICE
from proxies import DOORS, EVENTS, Doors, Proxy, model, raw, send

CONFIG = """
failed_attempts: off
keys: {path: KEYS, environment: production}
state: {path: STATE}
self_service: true
groups:
  - {name: crowd, max_concurrent: 4}
limits: {body_bytes: 64KiB}
routes:
  - {name: admin, paths: [/admin/**], permission: admin}
  - {name: hosted, paths: [/hosted/**], hosts: [hosted.example], permission: read}
  - {name: open, paths: [/open], public: true}
  - {name: chat, paths: [/v1/chat/completions], methods: [POST], permission: read, model_in: body}
  - {name: list, paths: [/v1/models], methods: [GET], permission: read, model_in: list}
  - {name: files, paths: [/v1/files, /v1/files/*], methods: [GET, HEAD, POST, DELETE], permission: write}
  - {name: socket, paths: [/v1/realtime], permission: read, upgrades: [websocket]}
  - {name: echo, paths: [/bearward.test.Echo/*], methods: [POST], permission: read}
  - {name: other, paths: [/v1/**], permission: read}
"""
PRODUCTION = ["--environment", "production", "--permissions"]
KEYS = {
    "good": [*PRODUCTION, "read,write", "--rate", "6000/1m/600"],
    "reader": [*PRODUCTION, "read"],
    "staging": ["--environment", "staging", "--permissions", "read"],
    "expired": [*PRODUCTION, "read", "--expires-in", "1ms"],
    "elsewhere": [*PRODUCTION, "read", "--allow-from", "192.0.2.1/32"],
    "chatter": [*PRODUCTION, "read", "--routes", "chat"],
    "llama": [*PRODUCTION, "read", "--models", "llama-*"],
    "busy": [*PRODUCTION, "read", "--max-concurrent", "4"],
    "crowded": [*PRODUCTION, "read", "--group", "crowd"],
    "tokens": [*PRODUCTION, "read", "--tokens", "100k/1m"],
    "capped": [*PRODUCTION, "read", "--max-output-tokens", "100"],
}
# Keys whose limits are used up by one request: one for each front, so that none uses up another's.
FRONTS = ("itself", *DOORS)
KEYS |= {f"once-{front}": [*PRODUCTION, "read", "--rate", "1/1h/1"] for front in FRONTS}
KEYS |= {f"budget-{front}": [*PRODUCTION, "read", "--budget", "requests=1/month"] for front in FRONTS}
CHAT = "/v1/chat/completions"


def body(**members):
    return json.dumps({"model": "llama-3", "messages": []} | members).encode()


def case(key, method, path, *headers, data=None, host=None):
    return key, method, path, list(headers) + ([("Host", host)] if host else []), data


# ONCE and BUDGET stand for the keys of the front; a key of None is no key, and other texts are sent as they are.
CASES = {
    "a list": case("good", "GET", "/v1/models"),
    "a request id": case("good", "GET", "/v1/x", ("X-Request-Id", "req-7")),
    "a query": case("good", "GET", "/v1/x?a=/../b&c"),
    "a completion": case("good", "POST", CHAT, data=body()),
    "a stream": case("good", "POST", "/v1/stream", data=b"{}"),
    "an upload": case("good", "POST", "/v1/files", data=b"x" * 60_000),
    "an upload by announced length that is too large": case("good", "POST", "/v1/files", data=b"x" * 70_000),
    "a deletion": case("good", "DELETE", "/v1/files/1"),
    "a head": case("good", "HEAD", "/v1/files/1"),
    "no limits": case("reader", "GET", "/v1/x"),
    "public": case(None, "GET", "/open"),
    "public with a bad key": case("bwk_nonsense", "GET", "/open"),
    "no key": case(None, "GET", "/v1/x"),
    "another scheme": case(None, "GET", "/v1/x", ("Authorization", "Basic dTpw")),
    "no key for an upload": case(None, "POST", "/v1/files", data=b"x" * 60_000),
    "a head without key": case(None, "HEAD", "/v1/x"),
    "an unknown key": case("sk-nonsense", "GET", "/v1/x"),
    "a mistyped key": case("bwk_0123456789_0123456789012345678901234567890123456789", "GET", "/v1/x"),
    "an expired key": case("expired", "GET", "/v1/x"),
    "a key of staging": case("staging", "GET", "/v1/x"),
    "a key for elsewhere": case("elsewhere", "GET", "/v1/x"),
    "no permission": case("reader", "DELETE", "/v1/files/1"),
    "not the route": case("chatter", "GET", "/v1/x"),
    "its only route": case("chatter", "POST", CHAT, data=body()),
    "its model": case("llama", "POST", CHAT, data=body()),
    "not its model": case("llama", "POST", CHAT, data=body(model="gpt-5")),
    "a list of its models": case("llama", "GET", "/v1/models"),
    "no route": case("good", "GET", "/nothing"),
    "no route without key": case(None, "GET", "/nothing"),
    "another host": case("good", "GET", "/hosted/x", host="hosted.example"),
    "not that host": case("good", "GET", "/hosted/x"),
    "two credentials": case("good", "GET", "/v1/x", ("Authorization", "Bearer other")),
    "a limit": case("ONCE", "GET", "/v1/x"),
    "a limit that is used up": case("ONCE", "GET", "/v1/x"),
    "a budget": case("BUDGET", "GET", "/v1/x"),
    "a budget that is used up": case("BUDGET", "GET", "/v1/x"),
    "a limit of requests in flight": case("busy", "GET", "/v1/x"),
    "a group's limit": case("crowded", "GET", "/v1/x"),
    "a limit of tokens": case("tokens", "POST", CHAT, data=body()),
    "less output than the cap": case("capped", "POST", CHAT, data=body(max_tokens=50)),
    "more output than the cap": case("capped", "POST", CHAT, data=body(max_tokens=500)),
    "dots": case("good", "GET", "/v1/../v1/x"),
    "an encoded letter": case("good", "GET", "/v1/%78"),
    "a long path": case("good", "GET", "/nothing/" + "x" * 3000),
    "a header with an underscore": case("good", "GET", "/v1/x", ("x_bearward_key_id", "evil")),
    "an override": case("good", "GET", "/v1/x", ("X-HTTP-Method-Override", "DELETE")),
    "one's own key": case("good", "GET", "/.bearward/me"),
    "another method": case("good", "PURGE", "/v1/x"),
    "a gRPC content type": case(None, "POST", "/v1/x", ("Content-Type", "application/grpc"), data=b""),
}
UNENFORCEABLE = (403, "UNENFORCEABLE_LIMIT")
CANONICAL = (400, "BAD_REQUEST")
FORWARDED = (200, None)
# Differences of the doors from bearward itself: the status and the code of the answer. A code of False: the
# answer is the proxy's own.
OVER_HTTP = {
    "its model": UNENFORCEABLE,
    "not its model": UNENFORCEABLE,
    "a list of its models": UNENFORCEABLE,
    "a limit of requests in flight": UNENFORCEABLE,
    "a group's limit": UNENFORCEABLE,
    "a limit of tokens": UNENFORCEABLE,
    "less output than the cap": UNENFORCEABLE,
    "more output than the cap": UNENFORCEABLE,
    "dots": CANONICAL,
    "an encoded letter": CANONICAL,
    "a header with an underscore": CANONICAL,
    "an override": CANONICAL,
    "one's own key": (404, "ROUTE_NOT_FOUND"),
    # The length of a body is for the proxy to limit.
    "an upload by announced length that is too large": FORWARDED,
}
# Envoy joins the two fields into one, and answers what it takes for gRPC as gRPC.
OF_ENVOY = {"two credentials": (401, "INVALID_API_KEY"), "a gRPC content type": FORWARDED}
NORMALISED = {"dots": FORWARDED, "an encoded letter": FORWARDED}
REFUSED_BY_PROXY = {"a header with an underscore": (400, False)}
DIFFERENT = {
    "nginx": OVER_HTTP
    | {
        # nginx refuses two fields itself, and drops headers with underscores.
        "two credentials": (400, False),
        "a header with an underscore": FORWARDED,
        # The details do not fit into a header.
        "a long path": (404, "ROUTE_NOT_FOUND"),
    },
    "caddy": OVER_HTTP | {"a header with an underscore": FORWARDED},
    "traefik": OVER_HTTP | {"dots": FORWARDED, "an encoded letter": FORWARDED} | REFUSED_BY_PROXY,
    "envoy": {
        "a list of its models": UNENFORCEABLE,
        "a limit of requests in flight": UNENFORCEABLE,
        "a group's limit": UNENFORCEABLE,
        "a limit of tokens": UNENFORCEABLE,
        "one's own key": (404, "ROUTE_NOT_FOUND"),
    }
    | NORMALISED
    | REFUSED_BY_PROXY
    | OF_ENVOY,
    "envoy-http": OVER_HTTP | NORMALISED | REFUSED_BY_PROXY | OF_ENVOY,
}
# Headers of an answer that are bearward's, and that a client sees.
COMPARED = ("content-type", "www-authenticate", "x-should-retry", "allow")
LIMITS = (
    "ratelimit",
    "ratelimit-policy",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
)


@pytest.fixture(scope="module")
def gateway(model, tmp_path_factory):
    config = CONFIG.replace("STATE", str(tmp_path_factory.mktemp("state") / "state"))
    with Doors(model, KEYS, config=config, admin=True) as gateway:
        yield gateway


@pytest.fixture(scope="module", params=DOORS)
def proxy(request, gateway, model):
    with Proxy(request.param, model, gateway.doors[request.param]) as proxy:
        yield proxy


def credential(gateway, key, front):
    key = f"{key.lower()}-{front}" if key in ("ONCE", "BUDGET") else key
    return [] if key is None else [("Authorization", f"Bearer {gateway.tokens.get(key, key)}")]


def ask(gateway, front, port, title):
    key, method, path, headers, data = CASES[title]
    return send(port, method, path, credential(gateway, key, front) + headers, data)


def code_of(answer):
    """The code of a refusal by bearward, None for an answer of upstream, and False for another answer."""
    _, headers, data = answer
    if headers.get("content-type") == "text/event-stream" or not data:
        return None
    try:
        parsed = json.loads(data)
    except ValueError:
        return False
    return parsed["error"]["code"] if parsed.get("success") is False else None


def test_there_are_enough_requests():
    assert len(CASES) >= 40


@pytest.fixture(scope="module")
def of_itself(gateway):
    """The answers of bearward itself."""
    return {title: ask(gateway, "itself", gateway.port, title) for title in CASES}


def test_each_request_is_answered_as_by_bearward_itself(proxy, gateway, of_itself):
    faults = []
    for title in CASES:
        answer, expected = ask(gateway, proxy.name, proxy.port, title), of_itself[title]
        shown = (answer[0], code_of(answer))
        if title in DIFFERENT[proxy.name]:
            if shown != DIFFERENT[proxy.name][title] and not (answer[0] == 400 and shown[1] is None):
                faults.append((title, shown, DIFFERENT[proxy.name][title]))
            continue
        if shown != (expected[0], code_of(expected)):
            faults.append((title, shown, (expected[0], code_of(expected))))
            continue
        faults += [(title, *fault) for fault in differences(proxy.name, answer, expected)]
    assert not faults, faults


def differences(front, answer, expected):
    """Differences of two answers of the same status and code, as far as a client sees them."""
    (_, headers, data), (_, known, known_data) = answer, expected
    refused = code_of(expected) is not None
    if "x-request-id" not in headers and (refused or front != "traefik"):
        yield "x-request-id", headers
    if known.get("x-request-id") == "req-7" and front != "traefik" and headers["x-request-id"] != "req-7":
        yield "x-request-id", headers["x-request-id"]
    for name in COMPARED if refused else COMPARED[:1]:
        # Over HTTP, Envoy leaves it out of an answer without a body.
        if front == "envoy-http" and name == "content-type" and not data:
            continue
        if headers.get(name) != known.get(name):
            yield name, headers.get(name), known.get(name)
    # The time until a limit grants again differs from request to request.
    for name in (*LIMITS, "retry-after"):
        # Traefik sets no header of an answer by the word of another server.
        if front == "traefik" and not refused:
            continue
        # Over HTTP, Envoy would add bearward's field to upstream's, so the example removes that one.
        if front == "envoy-http" and known.get(name) == "of-upstream":
            continue
        if (name in headers) != (name in known):
            yield name, headers.get(name), known.get(name)
    if refused and data and known_data:
        ours, theirs = (json.loads(one)["error"] for one in (data, known_data))
        # What is left of a time differs from request to request.
        for details in (ours["details"], theirs["details"]):
            details.pop("retry_after_seconds", None)
        if ours != theirs:
            yield "body", ours, theirs


def test_a_websocket_is_opened_with_a_key_alone(proxy, gateway):
    head = (
        "GET /v1/realtime HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    key = f"Authorization: Bearer {gateway.tokens['good']}\r\n"
    assert raw(proxy.port, f"{head}\r\n".encode()).startswith(b"HTTP/1.1 401 ")
    assert raw(proxy.port, f"{head}{key}\r\n".encode()).startswith(b"HTTP/1.1 101 ")
    # A route without upgrades opens no tunnel.
    other = f"{head}{key}\r\n".replace("/v1/realtime", "/v1/x")
    assert not raw(proxy.port, other.encode()).startswith(b"HTTP/1.1 101 ")


def test_events_arrive(proxy, gateway):
    _, headers, data = ask(gateway, proxy.name, proxy.port, "a stream")
    assert headers["content-type"] == "text/event-stream"
    assert data == b"".join(b"data: %d\n\n" % number for number in range(EVENTS))


def test_a_grpc_call_needs_a_key(proxy, gateway, model):
    if proxy.name == "traefik":
        pytest.skip("the example's service speaks HTTP/1.1; one with h2c:// is for gRPC alone")
    with grpc.insecure_channel(f"127.0.0.1:{proxy.grpc_port or proxy.port}") as channel:
        call = channel.unary_unary(f"/{SERVICE}/Unary")
        with pytest.raises(grpc.RpcError) as refused:
            call(b"hello", timeout=10)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        metadata = (("authorization", f"Bearer {gateway.tokens['good']}"), ("x-bearward-key-name", "evil"))
        assert call(b"hello", timeout=10, metadata=metadata) == b"hello"
        assert model.echo.metadata["x-bearward-key-name"] == "good"
        assert "authorization" not in model.echo.metadata
        # A stream in both directions is not held back until its client ends.
        asked = queue.Queue()
        both = channel.stream_stream(f"/{SERVICE}/Both")(iter(asked.get, None), timeout=10, metadata=metadata)
        for word in (b"one", b"two"):
            asked.put(word)
            assert next(both) == word
        asked.put(None)


def test_the_door_is_named(proxy, gateway):
    """By the metrics and the status; in the access log by test_doors_bypass.py."""
    door = {"envoy": "ext_authz", "envoy-http": "envoy"}.get(proxy.name, proxy.name)
    ask(gateway, proxy.name, proxy.port, "no limits")
    _, _, metrics = send(gateway.admin_port, "GET", "/metrics", [("Host", "localhost")])
    assert f'bearward_door_checks_total{{door="{door}",status="2xx"}}' in metrics.decode()
    shown = next(shown for shown in gateway.admin_status()["doors"] if shown["asked_by"] == door)
    assert shown["granted"] >= 1 and shown["unenforceable"] == "refuse"
    _, _, page = send(gateway.admin_port, "GET", "/", [("Host", "localhost")])
    assert f"<td>{door} <small>" in page.decode() and "are not seen here" in page.decode()


def test_nothing_is_let_in_while_bearward_is_away(proxy, gateway, model):
    """bearward hangs, is killed, and starts again under load."""
    sent_at, outcomes, ends, failed = [], [], threading.Event(), []

    def load():
        while not ends.is_set():
            for key, expected in (("good", 200), ("sk-nonsense", 401)):
                with contextlib.suppress(OSError):
                    begun = time.monotonic()
                    status, _, _ = send(proxy.port, "GET", "/v1/x", credential(gateway, key, proxy.name))
                    outcomes.append(status)
                    sent_at.append((begun, status))
                    if status not in (expected, 500, 502, 503):
                        failed.append((key, status))

    clients = [threading.Thread(target=load) for _ in range(8)]
    [client.start() for client in clients]
    try:
        wait_for("requests are served", lambda: outcomes.count(200) > 20)
        # Traefik waits for 30 s, which no option changes.
        if proxy.name != "traefik":
            os.kill(gateway.process.pid, signal.SIGSTOP)
            wait_for("a hanging bearward lets nothing in", lambda: 503 in outcomes or 502 in outcomes)
            os.kill(gateway.process.pid, signal.SIGCONT)
        gateway.process.kill()
        gateway.process.wait()
        killed = time.monotonic()
        wait_for("requests are refused", lambda: sum(begun > killed for begun, _ in list(sent_at)) > 20)
        assert all(status != 200 for begun, status in list(sent_at) if begun > killed)
        gateway.start()
        before = len(outcomes)
        wait_for("requests are served again", lambda: outcomes[before:].count(200) > 20)
    finally:
        ends.set()
        [client.join(timeout=60) for client in clients]
    assert not failed, failed[:5]
    assert not any(client.is_alive() for client in clients), "a request is stuck"


def own_address():
    """An address of this machine beside loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Nothing is sent.
        probe.connect(("192.0.2.1", 9))
        return probe.getsockname()[0]


@pytest.mark.parametrize(("serves", "is_grpc"), [(DOORS["caddy"], True), (DOORS["nginx"], False), (DOORS["envoy"], True)])
def test_a_stranger_may_not_ask(serves, is_grpc, model):
    """Who may ask at a listener that others reach, too: the proxy that is named."""
    address, port = own_address(), free_port()
    told = "X-Original-Method: GET\r\nX-Original-URI: /v1/x\r\nX-Original-Host: a\r\nX-Forwarded-For: 192.0.2.7\r\n"
    config = CONFIG.split("routes:")[1].join(["routes:", ""])
    listener = f"0.0.0.0:{port}, {serves}"
    for trusted, is_named in (("203.0.113.1/32", False), (f"{address}/32", True)):
        config_of = f"trusted_proxies: [{trusted}]\n{config}"
        with Gateway(model.port, {"one": ["--permissions", "read"]}, config=config_of, listener=listener) as gateway:
            key = f"Authorization: Bearer {gateway.tokens['one']}\r\n"
            answer = raw(port, f"GET / HTTP/1.1\r\nHost: a\r\n{told}{key}\r\n".encode(), address=address)
            assert (b"UNTRUSTED_CALLER" in answer) != is_named, answer
            if not is_named:
                assert answer.startswith(b"HTTP/1.1 403 ")
                wait_for("the audit line", lambda of=gateway: any('"UNTRUSTED_CALLER"' in line for line in of.lines))
            if is_grpc and not is_named:
                # A question over HTTP is never answered with a status of success, whatever it calls itself.
                with grpc.insecure_channel(f"{address}:{port}") as channel, pytest.raises(grpc.RpcError) as refused:
                    channel.unary_unary("/envoy.service.auth.v3.Authorization/Check")(b"", timeout=10)
                assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED
