"""A real server that leaves bodies unread: Python's own, with HTTP/1.1.

Such a server reads an unread body as the next request.
"""

import http.client
import http.server
import json
import subprocess
import threading

import pytest
from gateway import Gateway, binary

KEYS = {"admin": ["--permissions", "admin"]}

HIDDEN = b"POST /v1/admin/wipe HTTP/1.1\r\nHost: a\r\nx-bearward-key-id: key_admin\r\nContent-Length: 0\r\n\r\n"


class Careless(http.server.BaseHTTPRequestHandler):
    """Handler that answers with the request line and never reads a body."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        self.server.seen.append(f"{self.command} {self.path}")
        body = f"{self.command} {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = do_PUT = answer

    def log_message(self, *_):
        pass


@pytest.fixture
def careless():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Careless)
    server.seen = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def ask(gateway, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    connection.request(method, path, body, {"Authorization": f"Bearer {gateway.tokens['admin']}"})
    answer = connection.getresponse().read().decode()
    connection.close()
    return answer


@pytest.mark.parametrize("method,fields", [("DELETE", ""), ("POST", ", reuse_after_body: false"), ("PUT", ", reuse_after_body: false")])
def test_a_body_is_never_processed_as_a_request(careless, method, fields):
    with Gateway(careless.server_address[1], KEYS, config="routes: any\nworkers: 1\n", fields=fields) as gateway:
        assert ask(gateway, method, "/x", HIDDEN) == f"{method} /x"
        for _ in range(3):
            assert ask(gateway, "GET", "/mine") == "GET /mine"
    assert careless.seen == [f"{method} /x", *["GET /mine"] * 3]


def test_the_probe_detects_unread_bodies_and_names_the_setting_against_them(careless):
    with Gateway(careless.server_address[1], KEYS) as gateway:
        config = str(gateway.path / "bearward.yaml")
        output = subprocess.run([binary(), "check", "--probe", "--json", "--config", config], capture_output=True, timeout=60)
    assert output.returncode == 0, output
    report = json.loads(output.stdout)
    found = {probe["method"]: probe for probe in report["probes"]}
    assert {method: probe["outcome"] for method, probe in found.items()} == dict.fromkeys(["GET", "POST", "DELETE"], "unread")
    assert "reuse_after_body: false" in found["POST"]["warning"] and found["POST"]["warning"] in report["warnings"]
    assert found["GET"]["is_mended"] and found["DELETE"]["is_mended"]
    # The probe sends only GETs to real paths; other methods go to paths that no server has.
    assert all(line.startswith("GET /") or "/bearward-probe-" in line for line in careless.seen), careless.seen
