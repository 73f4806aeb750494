"""Tricky heads through each real proxy that asks bearward: nothing reaches upstream that bearward itself would not forward."""

import json
import re

import pytest
from gateway import wait_for
from proxies import DOORS, Doors, Proxy, model, raw, send

CONFIG = """
admin: off
auth: {headers: [authorization, x-api-key], websocket_protocol: true}
cors: {origins: ["https://app.example.com"]}
routes:
  - {name: admin, paths: [/admin, /admin/**], permission: admin}
  - {name: v1, paths: [/v1/**], permission: read, upgrades: [websocket]}
  - {name: open, paths: [/open], public: true}
""".replace("admin: off\n", "", 1)
KEYS = {"good": ["--permissions", "read"], "other": ["--permissions", "read"], "boss": ["--permissions", "admin"]}
ORIGIN = "Origin: https://app.example.com\r\n"
AUTH = "Authorization: Bearer GOOD\r\n"
HOST = "Host: a.example\r\n"
SOCKET = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


# Headers in which clients of APIs send keys, beside those of `auth.headers`.
KEY_HEADERS = (
    "Api-Key Apikey X-Auth-Token X-Goog-Api-Key X-Litellm-Api-Key X-Portkey-Api-Key Cf-Aig-Authorization Helicone-Auth "
    "Ocp-Apim-Subscription-Key Proxy-Authorization"
).split()


def get(target, more="", host=HOST, auth=AUTH, method="GET"):
    return f"{method} {target} HTTP/1.1\r\n{host}{auth}{more}\r\n"


# GOOD, OTHER and BOSS stand for the secrets of these keys.
HEADS = {
    # Paths
    "dots": get("/v1/../admin/x"),
    "encoded dots": get("/v1/%2e%2e/admin"),
    "half encoded dots": get("/v1/.%2e/admin"),
    "encoded slash": get("/v1%2f..%2fadmin"),
    "encoded slashes": get("/v1/%2e%2e%2fadmin"),
    "double encoded": get("/v1/%252e%252e/admin"),
    "double slash": get("//admin?x=1"),
    "slashes inside": get("/v1//..//admin"),
    "backslash": get("/v1\\..\\admin"),
    "encoded backslash": get("/v1/..%5cadmin"),
    "semicolon": get("/v1/..;/admin"),
    "matrix": get("/v1/x;/../../admin"),
    "fragment": get("/v1/x#/../admin"),
    "fragment first": get("/admin#/v1/x"),
    "encoded question mark": get("/v1/x%3fadmin?b"),
    "encoded hash": get("/v1/x%23/../../admin"),
    "encoded letter": get("/%61dmin"),
    "encoded letters": get("/v1/%6d%6F%64els"),
    "upper case": get("/ADMIN"),
    "trailing dots": get("/v1/x/.."),
    "trailing dot": get("/admin/."),
    "null byte": get("/v1/x%00/../../admin"),
    "encoded line end": get("/v1/x%0d%0aX-Evil:1"),
    "no UTF-8 in path": get("/v1/\xe9?\xff"),
    "no UTF-8 encoded": get("/v1/%ff%fe"),
    "overlong dots": get("/v1/%c0%ae%c0%ae/admin"),
    "query with path": get("/v1/x?a=/../admin"),
    "query twice": get("/v1/x??/admin"),
    "empty query": get("/v1/x?"),
    "tilde": get("/v1/~x/%7Ex"),
    "asterisk": get("*", method="OPTIONS"),
    "no slash": get("admin"),
    # Absolute targets and hosts
    "absolute": get("http://evil.test/admin?q"),
    "absolute with user": get("http://u@a.example/v1/x"),
    "absolute https": get("https://a.example/v1/x"),
    "absolute without path": get("http://a.example?x"),
    "two hosts": get("/v1/x", host="Host: a.example\r\nHost: b.example\r\n"),
    "host with path": get("/v1/x", host="Host: a.example/admin\r\n"),
    "empty host": get("/v1/x", host="Host: \r\n"),
    # What only the proxy may tell
    "original": get("/admin", "X-Original-URI: /v1/ok\r\nX-Original-URL: /v1/ok\r\nX-Original-Method: GET\r\nX-Original-Host: a\r\n"),
    "original only": get("/admin", "X-Original-URI: /v1/ok\r\nX-Original-Method: GET\r\n"),
    "forwarded": get("/admin", "X-Forwarded-Uri: /v1/ok\r\nX-Forwarded-Method: GET\r\nX-Forwarded-Host: evil\r\n"),
    "forwarded twice": get("/admin", "X-Forwarded-Uri: /v1/ok\r\nX-Forwarded-Uri: /v1/ok\r\n"),
    "forwarded underscores": get("/admin", "X_Forwarded_Uri: /v1/ok\r\nX_Original_URI: /v1/ok\r\n"),
    "envoy's": get("/v1/x", "X-Envoy-Original-Path: /admin\r\nX-Envoy-Auth-Partial-Body: false\r\n"),
    "override of the method": get("/v1/x", "X-HTTP-Method-Override: DELETE\r\n"),
    "rewrite": get("/v1/x", "X-Rewrite-URL: /admin\r\n"),
    "client's address": get("/v1/x", "X-Forwarded-For: 10.9.9.9\r\nX-Real-IP: 10.9.9.9\r\n"),
    "forwarded host": get("/v1/x", "Forwarded: host=evil.example;for=10.9.9.9\r\n"),
    "forwarded prefix": get("/v1/x", "X-Forwarded-Prefix: /admin\r\n"),
    "another identity": get("/v1/x", "Remote-User: admin\r\nX-Webauth-User: admin\r\n"),
    # Identity and credentials
    "identity": get("/v1/x", "X-Bearward-Key-Id: evil\r\nX-Bearward-Environment: evil\r\nX-Bearward-Permissions: admin\r\n"),
    "identity underscores": get("/v1/x", "x_bearward_key_id: evil\r\nX_Bearward_Environment: evil\r\n"),
    "identity dots": get("/v1/x", "x.bearward.key.id: evil\r\n"),
    "identity in other bytes": get("/v1/x", "X-Bearward-Key.Id: evil\r\nX-Bearward-Permissions~: admin\r\n"),
    "identity half underscored": get("/v1/x", "x-bearward-key_id: evil\r\n"),
    "a header like ours": get("/v1/x", "X-Bearward-Foo: evil\r\n"),
    "identity without key": get("/open", "X-Bearward-Key-Id: evil\r\nX-Bearward-Key-Name: evil\r\n", auth=""),
    "two keys": get("/v1/x", "Authorization: Bearer OTHER\r\n"),
    "two keys reversed": get("/v1/x", AUTH, auth="Authorization: Bearer OTHER\r\n"),
    "two credentials": get("/v1/x", "X-Api-Key: OTHER\r\n"),
    "joined keys": get("/v1/x", auth="Authorization: Bearer GOOD, Bearer OTHER\r\n"),
    "no UTF-8 in key": get("/v1/x", auth="Authorization: Bearer GOOD\xff\r\n"),
    "key in the other header": get("/v1/x", auth="X-Api-Key: GOOD\r\n"),
    "key with underscore": get("/v1/x", "X_Api_Key: OTHER\r\n"),
    "keys in all headers": get("/v1/x", "".join(f"{name}: OTHER\r\n" for name in KEY_HEADERS)),
    "identity nominated with another upgrade": get(
        "/v1/x", "Upgrade: foo\r\nConnection: close, X-Bearward-Key-Id, X-Bearward-Permissions\r\n"
    ),
    "identity nominated with an empty upgrade": get("/v1/x", "Upgrade: \r\nConnection: X-Bearward-Key-Id\r\n"),
    "another upgrade": get("/v1/realtime", "Connection: Upgrade\r\nUpgrade: foo\r\n"),
    "another version": get("/v1/realtime", "Connection: Upgrade\r\nUpgrade: h2c-14\r\n"),
    "forwarded identity": get("/v1/x", "X-Forwarded-User: root\r\nX-Forwarded-Groups: admin\r\n"),
    "key as protocol": get("/v1/x", f"{SOCKET}Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.GOOD\r\n", auth=""),
    "key in query": get("/v1/x?api_key=BOSS&key=BOSS"),
    "preflight": get("/v1/x", f"{ORIGIN}Access-Control-Request-Method: GET\r\n", auth="", method="OPTIONS"),
    # Connections and bodies
    "nominated": get("/v1/x", "Connection: Authorization, X-Forwarded-Uri, X-Original-URI\r\n"),
    "identity nominated": get("/v1/x", "Connection: close, X-Bearward-Key-Id, X-Bearward-Permissions\r\n"),
    "identity nominated for a socket": get(
        "/v1/x", SOCKET.replace("Connection: Upgrade", "Connection: Upgrade, X-Bearward-Key-Id")
    ),
    "websocket": get("/v1/x", SOCKET),
    "websocket to admin": get("/admin", SOCKET),
    "h2c": get("/v1/x", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"),
    "content-type of gRPC": get("/admin", "Content-Type: application/grpc\r\nTE: trailers\r\n"),
    "two lengths": get("/v1/x", "Content-Length: 0\r\nContent-Length: 5\r\n", method="POST"),
    "length and chunked": get("/v1/x", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", method="POST") + "0\r\n\r\n",
    "lower case method": get("/v1/x", method="get"),
    "other method": get("/v1/x", method="PURGE"),
    "trace": get("/v1/x", method="TRACE"),
    "head": get("/admin", method="HEAD"),
    "no UTF-8 in a header": get("/v1/x", "X-Raw: caf\xe9\r\n"),
    "folded header": get("/v1/x", "X-Folded: a\r\n b\r\n"),
    "space before colon": get("/v1/x", "X-Bearward-Key-Id : evil\r\n"),
}
# Some servers take the method, the path or the identity from these.
OVERRIDES = set(
    "x-http-method-override x-rewrite-url x-original-uri x-original-url x-original-method x-envoy-original-path forwarded "
    "x-forwarded-prefix x-forwarded-user x-forwarded-groups remote-user x-webauth-user".split()
)
IDENTITY = ("x-bearward-key-id", "x-bearward-key-name", "x-bearward-environment", "x-bearward-permissions")


@pytest.fixture(scope="module")
def gateway(model):
    with Doors(model, KEYS, config=CONFIG) as gateway:
        yield gateway


def would_forward(gateway, model, line, host):
    """The request line that bearward itself forwards for a request line, with the key `good`; None if it refuses."""
    model.heads.clear()
    head = f"{line}\r\nHost: {host}\r\nAuthorization: Bearer {gateway.tokens['good']}\r\n\r\n"
    raw(gateway.port, head.encode("latin1"))
    return model.heads[0][0] if model.heads else None


def test_there_are_enough_heads():
    assert len(HEADS) >= 60


@pytest.mark.parametrize("name", DOORS)
def test_nothing_passes_that_bearward_itself_would_not_forward(name, gateway, model):
    key_id = re.search(r"_(\w{10})_", gateway.tokens["good"])[1]
    expected = [f"key_{key_id}", "good", "-", "read"]
    passed, faults = [], []
    with Proxy(name, model, gateway.doors[name]) as proxy:
        for title, head in HEADS.items():
            for placeholder, key in (("GOOD", "good"), ("OTHER", "other"), ("BOSS", "boss")):
                head = head.replace(placeholder, gateway.tokens[key])
            model.heads.clear()
            answer = raw(proxy.port, head.encode("latin1"))
            for line, pairs in list(model.heads):
                passed.append(title)
                headers = dict(pairs)
                identity = [[value for sent, value in pairs if sent == known] for known in IDENTITY]
                mine = [["-"]] * 4 if title == "identity without key" else [[value] for value in expected]
                if identity != mine:
                    faults.append((title, "identity", identity))
                folded = [sent for sent, _ in pairs if re.sub("[^a-z0-9]", "-", sent).startswith("x-bearward-")]
                if sorted(folded) != sorted(IDENTITY):
                    faults.append((title, "names", folded))
                secrets = [sent for sent, value in pairs if any(token in value for token in gateway.tokens.values())]
                if secrets:
                    faults.append((title, "secrets", secrets))
                asked = headers.get("upgrade", "").lower()
                if asked not in ("", "websocket") or any(name in headers.get("connection", "").lower() for name in IDENTITY):
                    faults.append((title, "connection", headers.get("connection"), asked))
                if overrides := set(headers) & OVERRIDES:
                    faults.append((title, "overrides", overrides))
                forwarded = would_forward(gateway, model, line, headers["host"])
                if forwarded != line:
                    faults.append((title, line, forwarded))
            if not answer.startswith(b"HTTP/1.1 "):
                assert not answer or answer.startswith(b"HTTP/1.0 "), (title, answer[:100])
    assert not faults, faults
    # The proxies differ in what they normalise or refuse themselves, but these always pass.
    assert {"websocket", "query with path", "identity", "key in the other header", "client's address"} <= set(passed)
    assert len(passed) >= 12


def test_the_door_sees_the_real_client(gateway, model):
    with Proxy("nginx", model, gateway.doors["nginx"]) as proxy:
        key = ("Authorization", f"Bearer {gateway.tokens['good']}")
        send(proxy.port, "GET", "/v1/address", [key, ("X-Forwarded-For", "10.9.9.9")])

    def lines():
        return [json.loads(line) for line in gateway.lines if '"/v1/address"' in line]

    wait_for("the access line", lambda: any(line["message"] == "request" for line in lines()))
    assert all(line.get("client") == "127.0.0.1" and line["door"] == "nginx" for line in lines()), lines()
