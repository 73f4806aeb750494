"""Real balancers in front: HAProxy and nginx pass TCP connections on with PROXY headers, and TLS behind these."""

import contextlib
import http.client
import json
import socket
import ssl
import subprocess

import pytest

from balancer import ALLOWED, REFUSED, models, sent_headers
from gateway import Gateway, is_listening, wait_for
from redis_server import server_port
from scripted import Scripted


def haproxy(directory, port, upstream, version):
    (directory / "haproxy.cfg").write_text(f"""
global
  nbthread 1
defaults
  mode tcp
  timeout connect 5s
  timeout client 30s
  timeout server 30s
listen front
  bind 127.0.0.1:{port}
  server one 127.0.0.1:{upstream} {version}
""")
    return ["haproxy", "-f", str(directory / "haproxy.cfg"), "-db"]


def nginx(directory, port, upstream, _):
    (directory / "nginx.conf").write_text(f"""
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
worker_processes 1;
daemon off;
error_log {directory}/nginx.log;
pid {directory}/nginx.pid;
events {{ worker_connections 256; }}
stream {{ server {{ listen 127.0.0.1:{port}; proxy_pass 127.0.0.1:{upstream}; proxy_protocol on; }} }}
""")
    return ["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf")]


@contextlib.contextmanager
def balanced(front, version, tls):
    """bearward behind a balancer, and the balancer's port."""
    with Scripted(models) as model:
        listener = "127.0.0.1:0, proxy_protocol: [127.0.0.1]"
        keys = {"here": ["--permissions", "read", "--allow-from", ALLOWED], "anywhere": ["--permissions", "read"]}
        with Gateway(model.port, keys, tls=tls, listener=listener) as gateway:
            port = server_port()
            log = open(gateway.path / "front.log", "wb")
            process = subprocess.Popen(front(gateway.path, port, gateway.port, version), stdout=log, stderr=log)
            try:
                wait_for("the balancer listens", lambda: is_listening(port))
                yield gateway, port
            finally:
                process.terminate()
                process.wait()
                log.close()


def status_of(gateway, port, client, key):
    """Status of a request from an address of a client."""
    context = ssl.create_default_context(cafile=gateway.ca) if gateway.ca else None
    kind = http.client.HTTPSConnection if context else http.client.HTTPConnection
    more = {"context": context} if context else {}
    connection = kind("localhost" if context else "127.0.0.1", port, timeout=10, source_address=(client, 0), **more)
    try:
        connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {gateway.tokens[key]}"})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(
    ("front", "version"), [(haproxy, "send-proxy"), (haproxy, "send-proxy-v2"), (nginx, "")], ids=["haproxy-v1", "haproxy-v2", "nginx"]
)
def test_a_balancer_states_the_client(front, version, tls):
    with balanced(front, version, tls) as (gateway, port):
        assert status_of(gateway, port, ALLOWED, "here") == 200
        assert status_of(gateway, port, REFUSED, "here") == 401
        assert status_of(gateway, port, REFUSED, "anywhere") == 200

        def logged():
            lines = [json.loads(line) for line in list(gateway.lines) if '"request"' in line]
            return [line["client"] for line in lines if line["message"] == "request"]

        wait_for("the log", lambda: len(logged()) == 3)
        assert logged() == [ALLOWED, REFUSED, REFUSED]
        # A client that does not come through the balancer has no header, and its header is none.
        forged = f"PROXY TCP4 {ALLOWED} 127.0.0.1 1 2\r\n".encode()
        for client, begins in [(REFUSED, forged), ("127.0.0.1", b"")]:
            side = socket.create_connection(("127.0.0.1", gateway.port), source_address=(client, 0), timeout=10)
            request = f"GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {gateway.tokens['here']}\r\n\r\n"
            side.sendall(begins + request.encode())
            received = b""
            with contextlib.suppress(ConnectionResetError):
                while part := side.recv(4096):
                    received += part
            side.close()
            assert b" 200 " not in received and (begins == forged or received == b""), received
        wait_for("a warning", lambda: any("does the balancer send PROXY headers?" in line for line in gateway.lines))


def test_a_check_of_the_balancers_own_is_answered():
    """HAProxy's health checks send LOCAL (version 2), or the connection's own addresses (version 1)."""
    for version in ("send-proxy", "send-proxy-v2"):
        with Scripted(models) as model:
            listener = "127.0.0.1:0, proxy_protocol: [127.0.0.1]"
            with Gateway(model.port, {"any": ["--permissions", "read"]}, listener=listener) as gateway:
                port, stats = server_port(), server_port()
                (gateway.path / "haproxy.cfg").write_text(f"""
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
listen front
  bind 127.0.0.1:{port}
  option httpchk GET /health
  http-check expect rstatus ^[0-9]
  server one 127.0.0.1:{gateway.port} check inter 100ms {version} check-send-proxy
listen stats
  bind 127.0.0.1:{stats}
  stats enable
  stats uri /
""")
                process = subprocess.Popen(["haproxy", "-f", str(gateway.path / "haproxy.cfg"), "-db"])
                try:

                    def checks():
                        lines = [json.loads(line) for line in list(gateway.lines) if '"/health"' in line]
                        return [line["client"] for line in lines]

                    wait_for("three checks", lambda: len(checks()) >= 3)
                    assert set(checks()) == {"127.0.0.1"}
                finally:
                    process.terminate()
                    process.wait()


def test_headers_of_nonsense_do_no_harm():
    """The parsers have their own property test; here are the connections, a request behind each header."""
    granted, lines = sent_headers(4000)
    assert granted and not any("panic" in line for line in lines)
