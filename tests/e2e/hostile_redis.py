"""A server that answers Redis' protocol with nonsense, for tests."""

import contextlib
import itertools
import os
import socket
import threading
import time

GREETING = b"%3\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$5\r\nproto\r\n:3\r\n"
CHUNK = b"x" * 65536
PUSH = b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1024\r\n" + b"x" * 1024 + b"\r\n"

# One answer of each type of the protocol.
TYPES = (
    b"+OK\r\n", b":-1\r\n", b"$-1\r\n", b"*0\r\n", b"*-1\r\n", b"$2\r\nhi\r\n", b"%1\r\n+a\r\n:1\r\n", b"~1\r\n:1\r\n", b"#t\r\n",
    b",nan\r\n", b"_\r\n", b"(12345678901234567890123\r\n", b"=7\r\ntxt:abc\r\n", b"-ERR no\r\n", b"-NOSCRIPT no\r\n",
    b"*5\r\n:9223372036854775807\r\n:-1\r\n:0\r\n$1\r\nx\r\n$0\r\n\r\n", b"*1\r\n*1\r\n*1\r\n:1\r\n", b"-BUSY wait\r\n",
    b"-LOADING wait\r\n", b"-READONLY no\r\n", b"-MOVED 1 127.0.0.1:1\r\n", b"-OOM no\r\n", b"-NOPERM no\r\n", b"!5\r\nERR x\r\n",
)


def _once(answer):
    return lambda _count: iter([answer])


def _endless(first, piece):
    return lambda _count: itertools.chain([first], itertools.repeat(piece))


# Mode → function from the number of a command to the pieces of its answer.
MODES = {
    "wrong types": lambda count: iter([TYPES[count % len(TYPES)]]),
    "numbers": _once(b"*64\r\n" + b":9223372036854775807\r\n" * 64),
    "huge string": _endless(b"$500000000\r\n", CHUNK),
    "huger string": _endless(b"$9223372036854775807\r\n", CHUNK),
    "huge array": _once(b"*2000000000\r\n:1\r\n"),
    "endless array": _endless(b"*2000000000\r\n", b":1\r\n" * 16384),
    "endless line": _endless(b"+", CHUNK),
    "deep array": _once(b"*1\r\n" * 200_000),
    "endless pushes": _endless(b"", PUSH * 32),
    "half an answer": _once(b"*9\r\n:1\r\n:2\r\n$10\r\nabc"),
    "binary": lambda _count: iter([os.urandom(4096)]),
    "not Redis": _once(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"),
    "silence": lambda _count: iter([]),
    "too many answers": _once(b"+OK\r\n" * 1000),
}


class HostileRedis:
    """Answers each command by `mode`, one of MODES, or closes each connection at once ("closes").

    `greets`: HELLO gets a right answer, so that the nonsense reaches what comes behind it.
    """

    def __init__(self, mode, greets=True):
        self.mode, self.greets = mode, greets
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.shared = f"redis://127.0.0.1:{self.port}"
        self.open = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                side, _ = self.listener.accept()
                self.open.add(side)
                threading.Thread(target=self._serve, args=(side,), daemon=True).start()

    def _serve(self, side):
        with contextlib.suppress(OSError, ValueError), side, side.makefile("rb") as lines:
            count = 0
            while self.mode != "closes" and (command := read_command(lines)):
                if self.greets and command[0].upper() in (b"HELLO", b"CLIENT", b"SELECT", b"PING"):
                    side.sendall(GREETING if command[0].upper() == b"HELLO" else b"+OK\r\n")
                    continue
                count += 1
                for number, piece in enumerate(MODES[self.mode](count)):
                    side.sendall(piece)
                    # An endless answer comes at about 64 MB/s, and leaves this machine to the other tests.
                    time.sleep(0.001 if number else 0)
        self.open.discard(side)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for side in list(self.open):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


def read_command(lines):
    """The words of the next command; none at the end of the connection."""
    head = lines.readline()
    if not head.startswith(b"*"):
        return head.split()
    words = []
    for _ in range(int(head[1:])):
        length = int(lines.readline()[1:])
        words.append(lines.read(length + 2)[:-2])
    return words
