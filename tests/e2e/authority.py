"""Pebble, a real certificate authority for tests (RFC 8555), with its DNS server, and faults on the way to it."""

import base64
import contextlib
import http.client
import http.server
import json
import os
import pathlib
import ssl
import subprocess
import tempfile
import threading
import time

import trustme

from gateway import free_port, is_listening, launch, wait_for

# The names of tests. Pebble's own DNS server says that each of them is on this machine.
DOMAIN = "api.example.test"


class Pebble:
    """Pebble on loopback. `life`: that of certificates, in seconds. `external`: key id → secret (base64)."""

    def __init__(self, life=3600, tls_port=None, http_port=None, external=None):
        self.directory = tempfile.TemporaryDirectory(prefix="bearward-pebble-")
        path = self.path = pathlib.Path(self.directory.name)
        self.tls_port, self.http_port = tls_port or free_port(), http_port or free_port()
        self.port, self.management, self.dns, self.dns_management = (free_port() for _ in range(4))
        self.authority = trustme.CA()
        certificate = self.authority.issue_cert("localhost", "127.0.0.1")
        certificate.private_key_pem.write_to_path(str(path / "key.pem"))
        certificate.cert_chain_pems[0].write_to_path(str(path / "cert.pem"))
        self.ca = str(path / "ca.pem")
        self.authority.cert_pem.write_to_path(self.ca)
        self.certificate = certificate
        config = {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": f"127.0.0.1:{self.management}",
            "certificate": str(path / "cert.pem"),
            "privateKey": str(path / "key.pem"),
            "httpPort": self.http_port,
            "tlsPort": self.tls_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": bool(external),
            "certificateValidityPeriod": life,
        }
        if external:
            config["externalAccountMACKeys"] = external
        (path / "config.json").write_text(json.dumps({"pebble": config}))
        self.url = f"https://localhost:{self.port}/dir"
        self.lines, self.processes = [], []
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise

    def start(self):
        """Starts Pebble, for the first time or again: it forgets everything then."""
        if not self.processes:
            self._spawn(
                ["pebble-challtestsrv", "-http01", "", "-https01", "", "-tlsalpn01", "", "-dns01", f"127.0.0.1:{self.dns}"]
                + ["-management", f"127.0.0.1:{self.dns_management}", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""]
            )
            wait_for("the DNS server listens", lambda: is_listening(self.dns_management))
        # By itself, Pebble refuses nonces by chance.
        environment = {**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_AUTHZREUSE": "0", "PEBBLE_WFE_NONCEREJECT": "0"}
        self.process = self._spawn(
            ["pebble", "-config", str(self.path / "config.json"), "-dnsserver", f"127.0.0.1:{self.dns}"], environment
        )
        wait_for("Pebble listens", lambda: is_listening(self.port))

    def _spawn(self, command, environment=None):
        process = launch(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        threading.Thread(target=lambda: self.lines.extend(process.stdout), daemon=True).start()
        self.processes.append(process)
        return process

    def stop(self):
        self.process.kill()
        self.process.wait()

    def roots(self):
        """Path of the root certificate of what Pebble issues, PEM."""
        context = ssl.create_default_context(cafile=self.ca)
        connection = http.client.HTTPSConnection("localhost", self.management, context=context, timeout=10)
        connection.request("GET", "/roots/0")
        path = self.path / "roots.pem"
        path.write_bytes(connection.getresponse().read())
        connection.close()
        return str(path)

    def orders(self):
        """Number of orders since the start."""
        return sum("There are now" in line and "orders in the db" in line for line in self.lines)

    def accounts(self):
        """Number of accounts since the start."""
        return sum("There are now" in line and "accounts in memory" in line for line in self.lines)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()
            process.stdout.close()
        self.directory.cleanup()


class Way:
    """A TLS proxy on the way to Pebble. `answer(method, path, body)` returns the answer (status, headers, body) to
    give instead of Pebble's, or None; `alter(path, status, headers, body)` changes Pebble's."""

    def __init__(self, pebble):
        self.pebble, self.asked, self.over = pebble, [], threading.Event()
        self.answer, self.alter = (lambda *_: None), (lambda path, status, headers, body: (status, headers, body))
        way = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def handle_any(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                way.asked.append((time.monotonic(), self.command, self.path))
                answer = way.answer(self.command, self.path, body)
                if answer is None:
                    answer = way.alter(self.path, *way.forward(self.command, self.path, self.headers, body))
                status, headers, content = answer
                self.send_response(status)
                for name, value in headers:
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.send_header("connection", "close")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)
                self.close_connection = True

            do_GET = do_POST = do_HEAD = handle_any

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        pebble.certificate.configure_cert(context)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.server.server_address[1]
        self.url = f"https://localhost:{self.port}/dir"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def hang(self, *_):
        """An answer that does not come."""
        self.over.wait(120)

    def forward(self, method, path, headers, body):
        context = ssl.create_default_context(cafile=self.pebble.ca)
        connection = http.client.HTTPSConnection("localhost", self.pebble.port, context=context, timeout=30)
        kept = {name: value for name, value in headers.items() if name.lower() not in ("connection", "host")}
        connection.request(method, path, body=body or None, headers={**kept, "Host": f"localhost:{self.port}"})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, answer.getheaders(), content

    def count(self, path, since=0.0):
        """Number of requests for a path since a time (`time.monotonic`)."""
        return sum(at >= since and asked.startswith(path) for at, _, asked in self.asked)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over.set()
        self.server.shutdown()
        self.server.server_close()


def problem(status, kind, detail="no", retry_after=None):
    """An answer that refuses (RFC 7807)."""
    headers = [("content-type", "application/problem+json"), ("replay-nonce", base64.urlsafe_b64encode(os.urandom(12)).decode())]
    if retry_after is not None:
        headers.append(("retry-after", str(retry_after)))
    body = {"type": f"urn:ietf:params:acme:error:{kind}", "detail": detail, "status": status}
    return status, headers, json.dumps(body).encode()


@contextlib.contextmanager
def pebble_and_way(**options):
    with Pebble(**options) as pebble, Way(pebble) as way:
        yield pebble, way
