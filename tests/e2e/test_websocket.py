"""WebSocket through bearward, between a stock client and a stock server."""

import json
import socket
import subprocess
import threading

import pytest
from gateway import Gateway, wait_for
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import serve

KEYS = {
    "caller": ["--permissions", "read"],
    "two": ["--permissions", "read", "--max-concurrent", "2"],
    "writer": ["--permissions", "write"],
}


class Echo:
    """Echo server that counts open connections and records the headers of each."""

    def __init__(self):
        self.server = serve(self.handle, "127.0.0.1", 0, max_size=None)
        self.port = self.server.socket.getsockname()[1]
        self.open, self.seen = 0, []
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def handle(self, connection):
        self.open += 1
        self.seen.append(dict(connection.request.headers.raw_items()))
        try:
            for message in connection:
                if message == "die":
                    connection.socket.shutdown(socket.SHUT_RDWR)
                connection.send(message)
        except ConnectionClosed:
            pass
        finally:
            self.open -= 1


@pytest.fixture(scope="module")
def echo():
    echo = Echo()
    yield echo
    echo.server.shutdown()


@pytest.fixture(scope="module")
def gateway(echo):
    with Gateway(echo.port, KEYS, config="routes: any\n", fields=", timeouts: {idle: 2s}") as gateway:
        yield gateway


def open_as(gateway, key, **options):
    headers = {"Authorization": f"Bearer {gateway.tokens.get(key, key)}"} if key else {}
    url = f"ws://localhost:{gateway.port}/socket"
    return connect(url, additional_headers=headers, max_size=None, ping_interval=None, proxy=None, legacy=True, **options)


def test_ten_thousand_messages_and_a_large_one(echo, gateway):
    with open_as(gateway, "caller") as client:
        for number in range(10_000):
            client.send(f"message {number}")
            assert client.recv() == f"message {number}"
        large = bytes(range(256)) * (4 * 1024 * 4)
        assert len(large) == 4 * 1024 * 1024
        client.send(large)
        assert client.recv() == large
    seen = {name.lower(): value for name, value in echo.seen[-1].items()}
    assert "authorization" not in seen and seen["x-bearward-key-name"] == "caller"


def test_many_messages_in_flight(gateway):
    with open_as(gateway, "caller") as client:
        sender = threading.Thread(target=lambda: [client.send(f"{number}") for number in range(10_000)])
        sender.start()
        assert [client.recv() for _ in range(10_000)] == [f"{number}" for number in range(10_000)]
        sender.join()


@pytest.mark.parametrize(
    ("key", "status", "code"),
    [(None, 401, "MISSING_API_KEY"), ("nobody", 401, "INVALID_API_KEY"), ("writer", 403, "INSUFFICIENT_PERMISSIONS")],
)
def test_without_a_good_key_nothing_reaches_upstream(key, status, code):
    """Upstream is a bare listener that must accept no connection."""
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        upstream.settimeout(0.3)
        with Gateway(upstream.getsockname()[1], KEYS, config="routes: any\n") as gateway:
            with pytest.raises(InvalidStatus) as caught:
                open_as(gateway, key)
            answer = caught.value.response
            assert (answer.status_code, json.loads(answer.body)["error"]["code"]) == (status, code)
            with pytest.raises(TimeoutError):
                upstream.accept()


def try_open(gateway, key):
    """An open tunnel, or None if bearward answered 429."""
    try:
        return open_as(gateway, key)
    except InvalidStatus as refused:
        assert refused.response.status_code == 429
        return None


def test_a_tunnel_holds_its_permit_until_any_kind_of_end(echo, gateway):
    def leaves(client):
        client.socket.close()

    def resets(client):
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.socket.close()

    def half_closes(client):
        client.socket.shutdown(socket.SHUT_WR)

    def upstream_dies(client):
        client.send("die")

    def is_silent(client):
        """Sends no data, so `timeouts.idle` ends the tunnel."""

    for end in (lambda client: client.close(), leaves, resets, half_closes, upstream_dies, is_silent):
        first, second = try_open(gateway, "two"), try_open(gateway, "two")
        assert first and second
        assert try_open(gateway, "two") is None, "both permits are in use"
        end(first)
        third = []
        wait_for("a permit is released", lambda: third.append(try_open(gateway, "two")) or third[-1])
        third[-1].close()
        second.close()
        wait_for("upstream connections are closed", lambda: echo.open == 0)


def test_an_idle_tunnel_is_ended(gateway):
    with open_as(gateway, "caller") as client:
        client.send("x")
        assert client.recv() == "x"
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=10)


def test_a_stop_waits_for_tunnels_and_a_second_one_does_not(echo):
    with Gateway(echo.port, KEYS, config="routes: any\n") as gateway:
        with open_as(gateway, "caller") as client:
            gateway.process.terminate()
            wait_for("the stop begins", lambda: any("stopping" in line for line in gateway.lines))
            client.send("still here")
            assert client.recv() == "still here"
        assert gateway.process.wait(10) == 0
    # A tunnel may never end, so the drain timeout closes it, and the exit code is still 0.
    with Gateway(echo.port, KEYS, config="routes: any\nlimits: {drain_timeout: 1s}\n") as gateway:
        with open_as(gateway, "caller"):
            gateway.process.terminate()
            assert gateway.process.wait(5) == 0
    with Gateway(echo.port, KEYS, config="routes: any\n") as gateway, open_as(gateway, "caller"):
        gateway.process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            gateway.process.wait(0.5)
        gateway.process.terminate()
        assert gateway.process.wait(5) == 1
