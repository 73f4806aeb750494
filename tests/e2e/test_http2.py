"""Hostile HTTP/2 heads, built frame by frame, against the real binary and a recording upstream."""

import socket
import threading

import hpack
import pytest
from gateway import Gateway
from hyperframe.frame import DataFrame, Frame, GoAwayFrame, HeadersFrame, RstStreamFrame, SettingsFrame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Recorder:
    """HTTP/1.1 upstream that records the head of every request."""

    def __init__(self):
        self.heads = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        buffer = b""
        while data := connection.recv(65536):
            buffer += data
            while b"\r\n\r\n" in buffer:
                head, buffer = buffer.split(b"\r\n\r\n", 1)
                self.heads.append(head.decode())
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")


@pytest.fixture(scope="module")
def upstream():
    return Recorder()


@pytest.fixture(scope="module")
def gateway(upstream):
    with Gateway(upstream.port, {"ci": ["--permissions", "admin"]}, config="routes: any\n") as gateway:
        yield gateway


def frames(connection):
    buffer = b""
    while True:
        while len(buffer) < 9:
            data = connection.recv(65536)
            if not data:
                return
            buffer += data
        frame, length = Frame.parse_frame_header(memoryview(buffer[:9]))
        while len(buffer) < 9 + length:
            buffer += connection.recv(65536)
        frame.parse_body(memoryview(buffer[9 : 9 + length]))
        buffer = buffer[9 + length :]
        yield frame


def ask(port, headers):
    """Sends one head; returns the status, or "reset" if stream or connection was closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        head = HeadersFrame(1, data=hpack.Encoder().encode(headers), flags=["END_HEADERS", "END_STREAM"])
        connection.sendall(PREFACE + SettingsFrame(0).serialize() + head.serialize())
        decoder, status = hpack.Decoder(), None
        for frame in frames(connection):
            if isinstance(frame, HeadersFrame):
                status = int(dict(decoder.decode(frame.data))[":status"])
            if isinstance(frame, RstStreamFrame | GoAwayFrame):
                return status or "reset"
            if isinstance(frame, HeadersFrame | DataFrame) and "END_STREAM" in frame.flags:
                return status
    return status or "reset"


def head(**changes):
    fields = {":method": "GET", ":scheme": "http", ":authority": "a.example", ":path": "/x"}
    fields.update({f":{name}": value for name, value in changes.items()})
    return [(name, value) for name, value in fields.items() if value is not None]


CASES = {
    "a sound head": (head(), 200),
    "te: trailers": (head() + [("te", "trailers")], 200),
    "a fragment": (head(path="/x#y"), 200),
    "host instead of :authority": (head(authority=None) + [("host", "a.example")], 200),
    "another host beside :authority": (head() + [("host", "evil.example")], 200),
    "spoofed identity": (head() + [("x-bearward-key-id", "me"), ("x_bearward_key_id", "me"), ("x_forwarded_for", "::")], 200),
    "no authority at all": (head(authority=None), 400),
    "two hosts": (head() + [("host", "a"), ("host", "b")], 400),
    "user info": (head(authority="u@a.example"), 400),
    "another scheme": (head(scheme="ftp"), 400),
    "a path of *": (head(path="*"), 400),
    "an encoded slash": (head(path="/a%2fb"), 400),
    "connect": ([(":method", "CONNECT"), (":authority", "a.example:443")], 405),
    "trace": (head(method="TRACE"), 405),
    "a path without its slash": (head(path="x"), "reset"),
    "an empty path": (head(path=""), "reset"),
    "a path with NUL": (head(path="/x\0"), "reset"),
    "a path with a space": (head(path="/x y"), "reset"),
    "a path with CRLF": (head(path="/x\r\na: b"), "reset"),
    "an authority with a space": (head(authority="a b"), "reset"),
    "a method with a space": (head(method="GE T"), "reset"),
    "no method": (head(method=None), "reset"),
    "no scheme": (head(scheme=None), "reset"),
    "no path": (head(path=None), "reset"),
    "two paths": (head() + [(":path", "/y")], "reset"),
    "a late pseudo-header": (head(path=None) + [("a", "b"), (":path", "/x")], "reset"),
    "a response's pseudo-header": (head() + [(":status", "200")], "reset"),
    "extended CONNECT": (head(method="CONNECT") + [(":protocol", "websocket")], "reset"),
    "connection": (head() + [("connection", "close")], "reset"),
    "transfer-encoding": (head() + [("transfer-encoding", "chunked")], "reset"),
    "upgrade": (head() + [("upgrade", "h2c")], "reset"),
    "keep-alive": (head() + [("keep-alive", "1")], "reset"),
    "te: gzip": (head() + [("te", "gzip")], "reset"),
    "an upper-case name": (head() + [("X-Upper", "1")], "reset"),
    "CRLF in a value": (head() + [("x", "a\r\nb: c")], "reset"),
    "NUL in a value": (head() + [("x", "a\0")], "reset"),
    "a length that does not match": (head(method="POST") + [("content-length", "5")], "reset"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_head_is_forwarded_refused_or_reset(gateway, upstream, case):
    fields, expected = CASES[case]
    upstream.heads.clear()
    pseudo = [field for field in fields if field[0].startswith(":")]
    # The key must not change the order of pseudo-headers, which one case tests.
    position = len(fields) if case == "a late pseudo-header" else len(pseudo)
    bearer = ("authorization", f"Bearer {gateway.tokens['ci']}")
    assert ask(gateway.port, fields[:position] + [bearer] + fields[position:]) == expected
    if expected != 200:
        assert not upstream.heads
        return
    [seen] = upstream.heads
    lines = seen.lower().split("\r\n")
    assert lines[0] == "get /x http/1.1"
    assert [line for line in lines if line.startswith("host:")] == ["host: a.example"]
    assert len([line for line in lines if line.replace("_", "-").startswith("x-bearward-key-id:")]) == 1
    assert "x-bearward-key-id: me" not in lines and not any("authorization" in line or "x_" in line for line in lines)
