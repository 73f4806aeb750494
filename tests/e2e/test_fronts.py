"""nginx and Caddy in front of bearward, with the configurations of `deploy/examples`."""

import base64
import contextlib
import hashlib
import os
import queue
import re
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading

import pytest

from deployed import DEPLOY, TOOLS, Files, Running
from gateway import free_port, is_listening, wait_for

EXAMPLES = DEPLOY / "examples"
EVENTS = 5
# Address of the clients, which differs from the proxy's.
CLIENT = "127.0.0.2"


class Model(socketserver.StreamRequestHandler):
    """Model server that streams events, and echoes data after a WebSocket handshake.

    It sends an event only after the test has received the previous one.
    """

    def handle(self):
        with contextlib.suppress(OSError):
            self.serve()

    def serve(self):
        while line := self.rfile.readline():
            head = {}
            while (field := self.rfile.readline()) not in (b"\r\n", b""):
                name, _, value = field.decode().partition(":")
                head[name.lower()] = value.strip()
            self.rfile.read(int(head.get("content-length", 0)))
            self.server.heads.append(head)
            (self.echo if "upgrade" in head else self.stream)(line, head)

    def stream(self, _line, _head):
        self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for number in range(EVENTS):
            event = b"data: %d\n\n" % number
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            self.server.arrived.get(timeout=10)
        self.wfile.write(b"0\r\n\r\n")

    def echo(self, _line, head):
        accept = hashlib.sha1(head["sec-websocket-key"].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        answer = (
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: %s\r\n\r\n"
        )
        self.wfile.write(answer % base64.b64encode(accept))
        while data := self.connection.recv(4096):
            self.wfile.write(data)


@pytest.fixture(scope="module")
def model():
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Model) as server:
        server.daemon_threads, server.heads, server.arrived = True, [], queue.Queue()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("files") / "of")


@pytest.fixture(scope="module")
def gateway(model, files):
    text = files.mapped((EXAMPLES / "proxied.yaml").read_text()) + "\nadmin: {address: '127.0.0.1:0'}\n"
    with Running(text.replace("127.0.0.1:8000", f"127.0.0.1:{model.server_address[1]}")) as gateway:
        yield gateway


def changed(text, *pairs):
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


def nginx(gateway, files, port):
    """Command that starts nginx with the example, after `nginx -t` has accepted it."""
    text = changed(
        (EXAMPLES / "nginx.conf").read_text(),
        ("listen 443 ", f"listen 127.0.0.1:{port} "),
        ("server 127.0.0.1:8080;", f"server 127.0.0.1:{gateway.port};"),
        ("/etc/nginx/", f"{files.root}/"),
        ("http {", f"http {{\n access_log off; client_body_temp_path {files.root}/body;"),
    )
    (files.root / "nginx.conf").write_text(f"daemon off; pid {files.root}/nginx.pid;\n{text}")
    command = ["nginx", "-p", files.root, "-c", files.root / "nginx.conf"]
    done = subprocess.run([*command, "-t"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and "emerg" not in done.stderr, done.stderr
    return command, {}


def caddy(gateway, files, port):
    """Command that starts Caddy with the example, after `caddy validate` has accepted it."""
    environment = {**os.environ, "XDG_DATA_HOME": str(files.root / "caddy"), "XDG_CONFIG_HOME": str(files.root / "caddy")}
    options = {"capture_output": True, "text": True, "timeout": 30, "env": environment}
    original = EXAMPLES / "Caddyfile"
    done = subprocess.run([TOOLS / "caddy", "validate", "--adapter", "caddyfile", "--config", original], **options)
    assert done.returncode == 0 and "Valid configuration" in done.stdout + done.stderr, done.stderr
    assert subprocess.run([TOOLS / "caddy", "fmt", "--diff", original], **options).returncode == 0
    text = changed(
        original.read_text(),
        (
            "api.example.com {",
            f"https://localhost:{port} {{\n\ttls {files.root}/tls.crt {files.root}/tls.key\n\tbind 127.0.0.1",
        ),
        ("127.0.0.1:8080", f"127.0.0.1:{gateway.port}"),
    )
    (files.root / "Caddyfile").write_text("{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n}\n" + text)
    return [TOOLS / "caddy", "run", "--adapter", "caddyfile", "--config", files.root / "Caddyfile"], {"env": environment}


@pytest.fixture(scope="module", params=[nginx, caddy], ids=lambda server: server.__name__)
def front(request, gateway, files):
    """Port of the proxy."""
    port = free_port()
    command, more = request.param(gateway, files, port)
    with open(files.root / "front.log", "w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, **more)
        try:
            wait_for("the proxy listens", lambda: is_listening(port) or process.poll() is not None)
            assert process.poll() is None, (files.root / "front.log").read_text()
            yield port
        finally:
            # SIGTERM, because nginx's workers would outlive a killed master.
            process.terminate()
            process.wait(timeout=20)
    shutil.rmtree(files.root / "caddy", ignore_errors=True)


@contextlib.contextmanager
def connected(port, files):
    context = ssl.create_default_context(cafile=files.root / "ca.crt")
    with socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(CLIENT, 0)) as plain:
        with context.wrap_socket(plain, server_hostname="localhost") as encrypted, encrypted.makefile("rb") as reader:
            yield encrypted, reader


def asked(line, key, *fields, body=""):
    lines = [f"{line} HTTP/1.1", "Host: localhost", *fields]
    lines += [f"Authorization: Bearer {key}"] if key else []
    lines += [f"Content-Length: {len(body)}"] if body else []
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def head_of(reader):
    status, fields = int(reader.readline().split()[1]), {}
    while (line := reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode().partition(":")
        fields[name.lower()] = value.strip()
    return status, fields


def test_events_arrive_one_by_one_and_bearward_knows_the_client(front, files, model, gateway):
    model.heads.clear()
    with connected(front, files) as (connection, reader):
        forged = ("X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: ftp", "X-Forwarded-Host: evil")
        connection.sendall(asked("POST /v1/chat/completions", files.key, *forged, body='{"stream": true}'))
        status, fields = head_of(reader)
        assert (status, fields["content-type"]) == (200, "text/event-stream")
        for number in range(EVENTS):
            # The model waits for `arrived`, so a proxy that buffers events would hang here.
            while (line := reader.readline()) != b"data: %d\n" % number:
                assert re.fullmatch(rb"[0-9a-f]*\r?\n", line), line
            model.arrived.put(number)
    [head] = model.heads
    assert (head["x-forwarded-for"], head["x-forwarded-proto"], head["x-forwarded-host"]) == (
        f"{CLIENT}, 127.0.0.1", "https", "localhost"
    )  # fmt: skip
    assert "6.6.6.6" not in str(head) and "authorization" not in head and head["x-bearward-key-name"] == "reader"
    wait_for("the request is logged", lambda: any('"status":200' in line and f'"{CLIENT}"' in line for line in list(gateway.lines)))


def test_refusals_pass_unchanged(front, files, model):
    model.heads.clear()
    with connected(front, files) as (connection, reader):
        connection.sendall(asked("GET /v1/models", None))
        status, fields = head_of(reader)
        body = reader.read(int(fields["content-length"]))
        assert status == 401 and b'"MISSING_API_KEY"' in body and fields["x-request-id"] and model.heads == []


def test_a_websocket_passes(front, files):
    with connected(front, files) as (connection, reader):
        fields = (
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        )
        connection.sendall(asked("GET /v1/realtime", files.key, *fields))
        status, answered = head_of(reader)
        assert (status, answered["sec-websocket-accept"]) == (101, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        for message in (b"one", b"two"):
            connection.sendall(message)
            assert reader.read(len(message)) == message
