"""Idle connections: opens them, reads one answer on each, prints `open`, and holds them.

idle.py PORT COUNT TOKEN plain|tls
"""

import socket
import ssl
import sys
import time

port, count, token, kind = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
ASK = f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
tls = ssl._create_unverified_context()
held = []
for number in range(count):
    # Several loopback addresses: the ephemeral ports of one would not suffice.
    connection = socket.create_connection(("127.0.0.1", port), source_address=(f"127.0.1.{1 + number % 8}", 0))
    # A connection without an answer would falsify the measurement, so it is an error.
    connection.settimeout(20)
    if kind == "tls":
        connection = tls.wrap_socket(connection)
    connection.sendall(ASK)
    answer = b""
    while b"}]}" not in answer:
        more = connection.recv(65536)
        if not answer and not more.startswith(b"HTTP/1.1 200"):
            sys.exit(f"connection {number}: {more[:200]}")
        answer += more
    held.append(connection)
print("open", flush=True)
time.sleep(3600)
