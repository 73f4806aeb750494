"""Opens connections, has one answer on each, says `open`, and holds them until it is ended.

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
    # More than one address of loopback, so that no range of ports is a limit.
    connection = socket.create_connection(("127.0.0.1", port), source_address=(f"127.0.1.{1 + number % 8}", 0))
    # One that is not served is a fault of the measurement, and told.
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
