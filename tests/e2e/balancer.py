"""bearward behind a balancer that sends PROXY headers, and altered headers of all kinds."""

import contextlib
import random
import socket
import threading

from gateway import Gateway
from scripted import Scripted, json_answer

# The addresses of clients on loopback; the balancers connect from 127.0.0.1.
ALLOWED, REFUSED = "127.0.0.2", "127.0.0.3"


def models(side, _):
    """The script of a model server that lists no models."""
    side.sendall(json_answer('{"data": []}'))


def random_header(chance):
    """A PROXY header, or something near one."""
    words = [b"PROXY", b"TCP4", b"TCP6", b"UNKNOWN", b"UDP4", b"127.0.0.2", b"::1", b"256.1.1.1", b"0", b"65536", b"-1", b"", b"\0"]
    kind = chance.randrange(4)
    if chance.randrange(50) == 0:
        # One that is sound.
        return f"PROXY TCP4 {chance.choice([ALLOWED, REFUSED])} 127.0.0.1 1 2\r\n".encode()
    if kind == 0:
        return b" ".join(chance.choice(words) for _ in range(chance.randrange(9))) + chance.choice([b"\r\n", b"\n", b"\r", b""])
    if kind == 1:
        return b"PROXY TCP4 127.0.0.2 127.0.0.1 1 2\r\n"[: chance.randrange(40)] + chance.randbytes(chance.randrange(60))
    length = chance.choice([0, 11, 12, 13, 36, 216, 300, 65535])
    head = b"\r\n\r\n\0\r\nQUIT\n" + bytes([chance.choice([0x20, 0x21, 0x22, 0x11, chance.randrange(256)])])
    head += bytes([chance.choice([0, 0x11, 0x12, 0x21, 0x31, chance.randrange(256)])]) + length.to_bytes(2, "big")
    return head + chance.randbytes(chance.choice([length, max(length - 1, 0), chance.randrange(400)]))


def states(header, client):
    """Whether a header states this client, by a reading of the protocol of its own."""
    if header.startswith(b"PROXY "):
        words = header[: header.find(b"\r\n")].split(b" ")
        return len(words) == 6 and words[1] == b"TCP4" and words[2] == client.encode()
    return header[12:14] == b"\x21\x11" and header[16:20] == socket.inet_aton(client)


def sent_headers(count, threads=32):
    """Sends altered headers, each on a connection of its own with a request behind it, whose key only one client may
    use. Returns the headers of requests that were granted, and the lines of the log."""
    with Scripted(models) as model:
        listener = "127.0.0.1:0, proxy_protocol: [127.0.0.1]"
        keys = {"here": ["--permissions", "read", "--allow-from", ALLOWED]}
        with Gateway(model.port, keys, listener=listener, config="limits: {header_timeout: 50ms}") as gateway:
            request = f"GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {gateway.tokens['here']}\r\n\r\n".encode()
            granted = []

            def send(seed):
                chance = random.Random(seed)
                for _ in range(count // threads):
                    header = random_header(chance)
                    received = b""
                    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as side:
                        with contextlib.suppress(OSError):
                            side.sendall(header + request)
                            while part := side.recv(4096):
                                received += part
                    if received.startswith(b"HTTP/1.1 200"):
                        granted.append(header)

            running = [threading.Thread(target=send, args=(seed,)) for seed in range(threads)]
            for thread in running:
                thread.start()
            for thread in running:
                thread.join()
            # Only a sound header of that client was believed, and the gateway still serves.
            assert all(states(header, ALLOWED) for header in granted), granted
            with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as side:
                side.sendall(f"PROXY TCP4 {ALLOWED} 127.0.0.1 1 2\r\n".encode() + request)
                assert side.recv(4096).startswith(b"HTTP/1.1 200")
            return granted, list(gateway.lines)
