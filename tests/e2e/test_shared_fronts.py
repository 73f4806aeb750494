"""Proxies that share connections among clients: a wrong key must not cost others a request.

The critical case is a refused POST whose body arrives in a later packet. If bearward closed the
connection without notice, the proxy would lose another client's request on it.
"""

import asyncio
import json
import subprocess

import pytest

from gateway import Gateway, free_port, is_listening, wait_for
from measure_hostile import Model

GOOD = 3600
# Number of good clients, and of clients with a wrong key.
CLIENTS = 4


def nginx(directory, port, upstream):
    (directory / "nginx.conf").write_text(f"""
daemon off; user root; pid {directory}/nginx.pid; worker_processes 1; error_log stderr;
events {{ worker_connections 256; }}
http {{
  access_log off; client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  upstream bearward {{ server 127.0.0.1:{upstream}; keepalive 16; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://bearward; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_next_upstream off; client_body_buffer_size 1k;
    }}
  }}
}}
""")
    return ["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf")]


def haproxy(directory, port, upstream):
    (directory / "haproxy.cfg").write_text(f"""
global
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  http-reuse always
  retries 0
frontend front
  bind 127.0.0.1:{port}
  default_backend bearward
backend bearward
  server one 127.0.0.1:{upstream}
""")
    return ["haproxy", "-f", str(directory / "haproxy.cfg"), "-db"]


def request(method, token, body=b""):
    length = f"Content-Length: {len(body)}\r\n" if method == "POST" else ""
    return f"{method} /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n{length}\r\n".encode()


async def answer(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    length = next(line for line in head.lower().split("\r\n") if line.startswith("content-length:"))
    await reader.readexactly(int(length.split(":")[1]))
    return int(head.split(" ")[1]), "connection: close" in head.lower()


async def good(port, token, count):
    """Sends requests with a good key; returns the statuses of wrong answers, 0 for none."""
    lost, writer = [], None
    for number in range(count):
        if writer is None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = b"{}" if number % 2 else b""
        method = "POST" if body else "GET"
        try:
            writer.write(request(method, token, body) + body)
            status, closes = await asyncio.wait_for(answer(reader), 20)
        except (OSError, asyncio.IncompleteReadError):
            status, closes = 0, True
        if status not in (200, 404):
            lost.append(status)
        if closes:
            writer.close()
            writer = None
    return lost


async def wrong(port, until):
    """Sends POSTs with a wrong key and delayed bodies; returns the number of 401s."""
    refused = 0
    while not until.done():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = b"x" * 30_000
        try:
            writer.write(request("POST", "wrong", body))
            await writer.drain()
            await asyncio.sleep(0.002)
            writer.write(body)
            status, _ = await asyncio.wait_for(answer(reader), 20)
            refused += status == 401
        except (OSError, asyncio.IncompleteReadError):
            pass
        writer.close()
    return refused


async def drive(port, token):
    done = asyncio.get_running_loop().create_future()
    bad = [asyncio.create_task(wrong(port, done)) for _ in range(CLIENTS)]
    lost = await asyncio.gather(*(good(port, token, GOOD // CLIENTS) for _ in range(CLIENTS)))
    done.set_result(None)
    return sum(lost, []), sum(await asyncio.gather(*bad))


@pytest.mark.parametrize("front", [nginx, haproxy], ids=["nginx", "haproxy"])
def test_a_wrong_key_costs_no_other_client_a_request(front, tmp_path):
    async def whole():
        async with Model() as model:
            config = "routes: [{name: all, paths: ['/**'], permission: read}]\n"
            with Gateway(model.port, {"ci": ["--permissions", "read"]}, config=config) as gateway:
                port = free_port()
                process = subprocess.Popen(front(tmp_path, port, gateway.port), stderr=subprocess.DEVNULL)
                try:
                    await asyncio.to_thread(wait_for, "the proxy listens", lambda: is_listening(port))
                    return await drive(port, gateway.tokens["ci"])
                finally:
                    process.terminate()
                    process.wait(timeout=20)

    lost, refused = asyncio.run(whole())
    assert refused > 50, "requests with the wrong key were refused during the test"
    assert lost == [], json.dumps(lost[:20])
