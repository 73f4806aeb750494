"""An upstream that answers each request by a script, and clients of single connections."""

import contextlib
import socket
import struct
import threading

from recorder import header

SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def json_answer(body, status="200 OK"):
    return f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def reset(side):
    """Closes a connection with a reset in place of its regular end."""
    side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    side.close()


class Scripted:
    """Upstream that calls `script(side, request)` for each request, with the connection and the bytes.

    A script that returns False ends the connection.
    """

    def __init__(self, script):
        self.script, self.requests = script, []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self.listener.getsockname()[1]

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                side, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(side,), daemon=True).start()

    def serve(self, side):
        with side, contextlib.suppress(OSError), side.makefile("rb") as reader:
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while request := read_request(reader):
                self.requests.append(request)
                if self.script(side, request) is False:
                    return

    def __enter__(self):
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        # A listener that is shut down wakes the thread that accepts; a closed one does not.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def read_request(reader):
    """Bytes of a request with its body; empty at the end of the connection."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        if not (line := reader.readline()):
            return b""
        head += line
    return head + reader.read(int(header(head, "content-length") or 0))


def post(path, key, body, more=""):
    """Bytes of a request with a JSON body."""
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body.encode())}\r\n{more}\r\n{body}".encode()


def connect(port):
    side = socket.create_connection(("127.0.0.1", port), timeout=30)
    side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return side


def read_until(side, end, seen=b""):
    """Bytes of a connection up to `end`, or up to the end of the connection."""
    while end not in seen and (data := side.recv(1 << 16)):
        seen += data
    return seen
