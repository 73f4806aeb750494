"""bearward as an edge that gets its certificate from Pebble, and clients that make new handshakes all along."""

import asyncio
import contextlib
import hashlib
import http.client
import ssl
import subprocess
import time

from authority import DOMAIN
from gateway import Gateway, wait_for


def asked(port, path, host="localhost", headers=None, method="GET"):
    """Status, headers and text of an answer, without TLS."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, headers={"Host": host, **(headers or {})})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode(errors="replace")
    finally:
        connection.close()


def acme(pebble, storage, challenge="tls-alpn-01", directory=None, domains=(DOMAIN,), more=""):
    """The fields of a listener that gets its certificate from Pebble."""
    return (
        f"tls: {{acme: {{domains: [{', '.join(domains)}], directory: '{directory or pebble.url}', ca: {pebble.ca}, "
        f"storage: {storage}, challenge: {challenge}{more}}}}}"
    )


def edge(pebble, storage, port=None, challenge="tls-alpn-01", plain_port=None, config="", upstream=1, **fields):
    """A gateway on Pebble's port for TLS, and on its port for HTTP where the challenge is http-01."""
    listener = f"127.0.0.1:{port or pebble.tls_port}, {acme(pebble, storage, challenge, **fields)}"
    if challenge == "http-01":
        plain = plain_port or pebble.http_port
        listener = f'127.0.0.1:{plain}, redirect_to_https: true}}, {{address: "127.0.0.1:{port or pebble.tls_port}", ' + listener.split(", ", 1)[1]
    config += "\nroutes: [{name: health, paths: [/health], public: true}, {name: all, paths: ['/**'], permission: read}]\n"
    return Gateway(upstream, {"reader": ["--permissions", "read"]}, listener=listener, admin=True, config=config)


def readiness(gateway):
    """Status and body of /readyz."""
    status, _, text = asked(gateway.admin_port, "/readyz")
    return status, text


def wait_until_ready(gateway, seconds=30):
    wait_for("the certificate is there", lambda: readiness(gateway)[0] == 200, seconds)


def certificate(port, roots, name=DOMAIN):
    """The certificate that is served, DER, after a handshake that verifies it."""

    async def shake():
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context_of(roots), server_hostname=name)
        leaf = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return leaf

    return asyncio.run(shake())


def context_of(roots):
    return ssl.create_default_context(cafile=roots)


class Handshakes:
    """`connections` clients that connect, verify the certificate, ask for /health, and connect again, for some time
    or until `is_over` returns true. `served`: digest → time of the first handshake; `failures`: texts."""

    def __init__(self, port, roots, connections=64):
        self.port, self.context, self.connections = port, context_of(roots), connections
        self.served, self.failures, self.count = {}, [], 0

    async def one(self, is_over):
        while not is_over():
            try:
                reader, writer = await asyncio.wait_for(
                    asyncio.open_connection("127.0.0.1", self.port, ssl=self.context, server_hostname=DOMAIN), 10
                )
                leaf = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
                writer.write(f"GET /health HTTP/1.1\r\nHost: {DOMAIN}\r\nConnection: close\r\n\r\n".encode())
                answer = await asyncio.wait_for(reader.read(), 10)
                # The upstream is not there: what counts is an answer.
                if not answer.startswith(b"HTTP/1.1 502"):
                    self.failures.append(answer[:200].decode())
                writer.close()
                self.served.setdefault(hashlib.sha256(leaf).hexdigest()[:12], time.monotonic())
                self.count += 1
            except (OSError, asyncio.TimeoutError) as error:
                self.failures.append(repr(error))

    async def all(self, is_over):
        await asyncio.gather(*(self.one(is_over) for _ in range(self.connections)))

    def run(self, is_over):
        asyncio.run(self.all(is_over))


def renewals_under_load(pebble, challenge, renewals, connections=64):
    """Lets a certificate be renewed while clients make handshakes. Returns the handshakes and the gateway's status."""
    storage = pebble.path / f"storage-{challenge}"
    with edge(pebble, storage, challenge=challenge) as gateway:
        wait_until_ready(gateway)
        load = Handshakes(gateway.port, pebble.roots(), connections)
        end = time.monotonic() + 400
        load.run(lambda: len(load.served) > renewals or time.monotonic() > end)
        return load, gateway.admin_status()["acme"][0]


def killed_again_and_again(pebble, moments):
    """Kills bearward at these moments of an order (seconds after its start). Returns the orders of each start."""
    storage, orders = pebble.path / "storage-killed", []
    gateway = None
    for moment in moments:
        if any(storage.glob("certificates/*.pem")):
            # The order has come to its end. A note of when that was would hold up the next one.
            for old in [*storage.glob("certificates/*.pem"), *storage.glob("orders/*")]:
                old.unlink()
        before = pebble.orders()
        if gateway is None:
            gateway = edge(pebble, storage)
        else:
            gateway.start()
        with contextlib.suppress(subprocess.TimeoutExpired):
            gateway.process.wait(moment)
        gateway.process.kill()
        gateway.process.wait()
        orders.append(pebble.orders() - before)
    before = pebble.orders()
    gateway.start()
    wait_until_ready(gateway)
    orders.append(pebble.orders() - before)
    certificate(gateway.port, pebble.roots())
    gateway.close()
    return orders, [oct(path.stat().st_mode & 0o777) for path in storage.glob("certificates/*")]
