"""Real proxies with the configurations of `deploy/examples`, which ask bearward, and a model server behind them."""

import asyncio
import base64
import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import tempfile
import threading

import grpc_service
import pytest
from deployed import DEPLOY, TOOLS
from gateway import Gateway, free_port, is_listening, launch, wait_for

EXAMPLES = DEPLOY / "examples"
EVENTS = 3


class Model:
    """Model server that tells what reached it: HTTP/1.1 with JSON, events and a WebSocket echo; gRPC on the same port."""

    def __init__(self):
        self.heads = []
        self.echo = grpc_service.Echo()
        self.grpc, self.grpc_port = grpc_service.serve(self.echo)
        self.loop = asyncio.new_event_loop()
        self.server = self.loop.run_until_complete(asyncio.start_server(self.handle, "127.0.0.1", 0, limit=1 << 20))
        self.port = self.server.sockets[0].getsockname()[1]
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(timeout=10)
        self.grpc.stop(0)

    async def handle(self, reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
            first = await reader.readexactly(3)
            if first == b"PRI":
                await self.splice(first, reader, writer)
            while first:
                await self.answer(first + await reader.readuntil(b"\r\n\r\n"), reader, writer)
                first = await reader.read(1)
        writer.close()

    async def splice(self, first, reader, writer):
        """Passes an HTTP/2 connection on to the gRPC service."""
        other, out = await asyncio.open_connection("127.0.0.1", self.grpc_port)
        out.write(first)

        async def copy(source, target):
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    target.write(data)
                    await target.drain()
            target.close()

        await asyncio.gather(copy(reader, out), copy(other, writer))
        raise ValueError("the connection has ended")

    async def answer(self, raw, reader, writer):
        line, *fields = raw.decode("latin1").split("\r\n")[:-2]
        pairs = [(name.lower(), value.strip()) for name, _, value in (field.partition(":") for field in fields)]
        head = dict(pairs)
        length = 0
        if head.get("transfer-encoding") == "chunked":
            while size := int((await reader.readline()).split(b";")[0], 16):
                length += size
                await reader.readexactly(size + 2)
            await reader.readline()
        elif "content-length" in head:
            length = int(head["content-length"])
            await reader.readexactly(length)
        self.heads.append((line, pairs))
        if head.get("upgrade", "").lower() == "websocket":
            accept = hashlib.sha1(head["sec-websocket-key"].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
            writer.write(
                b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
                b"sec-websocket-accept: %s\r\n\r\n" % base64.b64encode(accept)
            )
            while data := await reader.read(4096):
                writer.write(data)
            raise ValueError("the tunnel has ended")
        if "stream" in line:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            for number in range(EVENTS):
                event = b"data: %d\n\n" % number
                writer.write(b"%x\r\n%s\r\n" % (len(event), event))
                await writer.drain()
            writer.write(b"0\r\n\r\n")
            return
        body = json.dumps({"line": line, "headers": pairs, "body_bytes": length}).encode()
        answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nratelimit: of-upstream\r\ncontent-length: %d\r\n\r\n"
        writer.write(answer % len(body) + (b"" if line.startswith("HEAD") else body))
        await writer.drain()


@pytest.fixture(scope="module")
def model():
    model = Model()
    yield model
    model.close()


def changed(text, *pairs):
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


class Proxy:
    """A real proxy with its example, before `model`, which asks the bearward `gateway` at `door`.

    `port`: for clients of HTTP; `grpc_port`: for clients of gRPC. Without `asks`, it forwards all requests.
    """

    def __init__(self, name, model, door, asks=True):
        self.name, self.asks = name, asks
        self.directory = tempfile.TemporaryDirectory(prefix=f"bearward-{name}-")
        self.path = pathlib.Path(self.directory.name)
        self.port, self.grpc_port = free_port(), None
        self.model, self.door = model, door
        command, environment = getattr(self, name.replace("-", "_"))()
        self.log = open(self.path / "log", "wb")
        self.process = launch(
            command, stdout=self.log, stderr=self.log, env={**os.environ, **environment}, start_new_session=True
        )
        try:
            wait_for(f"{name} asks", self.is_ready)
        except AssertionError:
            self.close()
            raise

    def is_ready(self):
        """Whether the proxy asks bearward, which refuses a request without a key."""
        assert self.process.poll() is None, (self.path / "log").read_text(errors="replace")
        return is_listening(self.port) and send(self.port, "GET", "/v1/models")[0] == (401 if self.asks else 200)

    def text(self, file, *pairs):
        """Text of an example, with the addresses of this test."""
        text = (EXAMPLES / file).read_text()
        return changed(text if self.asks else without_question(file, text), *pairs)

    def nginx(self):
        self.grpc_port = free_port()
        root = self.path
        for file in (EXAMPLES / "nginx").glob("*.conf"):
            shutil.copy(file, root)
        if not self.asks:
            asks = root / "bearward-asks.conf"
            asks.write_text(changed(asks.read_text(), ("auth_request /_bearward;", "")))
        text = self.text(
            "nginx/nginx.conf",
            ("listen 8080;", f"listen 127.0.0.1:{self.port};"),
            ("listen 8081 http2;", f"listen 127.0.0.1:{self.grpc_port} http2;"),
            ("127.0.0.1:9191", f"127.0.0.1:{self.door}"),
            ("127.0.0.1:8000", f"127.0.0.1:{self.model.port}"),
            ("http {", "http {\n access_log off;" + "".join(f" {kind}_temp_path {root}/{kind};" for kind in TEMPORARY)),
        )
        (root / "nginx.conf").write_text(f"daemon off; pid {root}/nginx.pid; error_log {root}/error.log;\n{text}")
        return ["nginx", "-p", root, "-c", root / "nginx.conf"], {}

    def caddy(self):
        text = self.text(
            "caddy/Caddyfile",
            ("(to_model) {", f"{CADDY_OPTIONS}(to_model) {{"),
            ("api.example.com {", f"http://:{self.port} {{\n\tbind 127.0.0.1"),
            *([("127.0.0.1:9191", f"127.0.0.1:{self.door}")] if self.asks else []),
            ("127.0.0.1:8000", f"127.0.0.1:{self.model.port}"),
        )
        (self.path / "Caddyfile").write_text(text)
        home = {"XDG_DATA_HOME": str(self.path), "XDG_CONFIG_HOME": str(self.path)}
        return [TOOLS / "caddy", "run", "--adapter", "caddyfile", "--config", self.path / "Caddyfile"], home

    def traefik(self):
        dynamic = self.text(
            "traefik/dynamic.yml",
            ("127.0.0.1:9191", f"127.0.0.1:{self.door}"),
            ("127.0.0.1:8000", f"127.0.0.1:{self.model.port}"),
        )
        (self.path / "dynamic.yml").write_text(dynamic)
        static = self.text(
            "traefik/traefik.yml",
            ('":8080"', f'"127.0.0.1:{self.port}"'),
            ("/etc/traefik/dynamic.yml", str(self.path / "dynamic.yml")),
        )
        (self.path / "traefik.yml").write_text(static)
        return [TOOLS / "traefik", f"--configFile={self.path / 'traefik.yml'}"], {}

    def envoy(self, example="envoy.yaml", door="9192"):
        text = self.text(
            f"envoy/{example}",
            ("{address: 0.0.0.0, port_value: 8080}", f"{{address: 127.0.0.1, port_value: {self.port}}}"),
            (f"port_value: {door}", f"port_value: {self.door}"),
            ("port_value: 8000", f"port_value: {self.model.port}"),
        )
        (self.path / "envoy.yaml").write_text(text)
        options = ["--concurrency", "1", "--use-dynamic-base-id", "--disable-hot-restart", "--log-level", "warning"]
        return [TOOLS / "envoy", "-c", self.path / "envoy.yaml", *options], {}

    def envoy_http(self):
        return self.envoy("envoy-http.yaml", "9191")

    def close(self):
        # Traefik and Envoy may have children, all in one session.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()
        self.directory.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def without_question(file, text):
    """Text of an example in which the proxy does not ask."""
    if file == "caddy/Caddyfile":
        return re.sub(r"\t\tforward_auth .*?\n\t\t\}\n", "", text, flags=re.DOTALL)
    if file == "traefik/dynamic.yml":
        return text.replace("bearward, ", "")
    if file.startswith("envoy/"):
        return re.sub(r"          - name: envoy.filters.http.ext_authz\n.*?(?=          - name: envoy.filters.http.router)", "", text, flags=re.DOTALL)
    return text


# Without certificates and without files outside the test's directory.
CADDY_OPTIONS = "{\n admin off\n persist_config off\n auto_https off\n servers {\n protocols h1 h2c\n }\n}\n"
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
# Proxies, and the listeners of bearward at which they ask.
DOORS = {
    "nginx": "serves: forward_auth, asked_by: nginx",
    "caddy": "serves: forward_auth, asked_by: caddy",
    "traefik": "serves: forward_auth, asked_by: traefik",
    "envoy": "serves: ext_authz",
    "envoy-http": "serves: forward_auth, asked_by: envoy",
}


class Doors(Gateway):
    """bearward with a listener of its own, and one for each proxy that asks."""

    def __init__(self, model, keys, config="", doors=DOORS, **options):
        self.doors = {name: free_port() for name in doors}
        lines = "".join(f"  - {{address: 127.0.0.1:{port}, {doors[name]}}}\n" for name, port in self.doors.items())
        self.more_listeners = lines
        super().__init__(model.port, keys, config=config, **options)

    def start(self):
        file = self.path / "bearward.yaml"
        text = file.read_text()
        if text.startswith("listeners: ["):
            first, _, rest = text.partition("\n")
            own = first.removeprefix("listeners: [").removesuffix("]")
            file.write_text(f"listeners:\n  - {own}\n{self.more_listeners}{rest}")
        super().start()

    def _read(self, process):
        """Reads the log. Only the first listener is this gateway's own port."""
        for line in process.stderr:
            event = json.loads(line) if line.startswith("{") and line.endswith("}\n") else {}
            port = event.get("address", "").rsplit(":", 1)[-1]
            if event.get("message") == "listening" and self.port is None:
                self.port = int(port)
            elif event.get("message") == "admin listening":
                self.admin_port = int(port)
            self.lines.append(line)


def send(port, method, path, headers=(), body=None, timeout=10):
    """Answer to one request, as (status, headers, body). `headers`: pairs, in their order."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        names = {name.lower() for name, _ in headers}
        if "host" not in names:
            connection.putheader("Host", "model.example")
        if body is not None and "content-length" not in names:
            connection.putheader("Content-Length", str(len(body)))
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def raw(port, head, timeout=3, address="127.0.0.1"):
    """First answer of a server to these bytes, or what it has said when it closes the connection or says no more."""
    received = b""
    with socket.create_connection((address, port), timeout=timeout) as connection:
        connection.sendall(head)
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while not is_whole(received, head) and (data := connection.recv(65536)):
                received += data
    return received


def is_whole(received, request):
    """Whether a whole answer was received."""
    head, end, body = received.partition(b"\r\n\r\n")
    if not end:
        return False
    if request.startswith(b"HEAD ") or head.split(b" ")[1] in (b"101", b"204", b"304"):
        return True
    fields = head.lower()
    length = re.search(rb"content-length: *(\d+)", fields)
    return len(body) >= int(length[1]) if length else b"chunked" in fields and body.endswith(b"0\r\n\r\n")


