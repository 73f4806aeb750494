"""What identities cost: CPU of a request by its credential, a flood of forged tokens, memory of 100,000 holders.

`make measure-identities` builds the binary and runs this. Loads go to loopback alone.
"""

import http.client
import pathlib
import socket
import statistics
import sys
import threading
import time

from fleet import Stub
from gateway import Gateway, wait_for
from issuer import Issuer, Key

ROUTES = "routes: [{name: all, paths: ['/**'], permission: read}]\nworkers: 1\n"
LIMITED = '[{when: {sub: "*"}, permissions: [read], rate_limits: [{requests: 60, per: 1m, burst: 60}]}]'
UNLIMITED = '[{when: {sub: "*"}, permissions: [read], rate_limits: none}]'


def cpu_seconds(process):
    """CPU time of a process so far, of all its threads, to the nanosecond."""
    threads = pathlib.Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def rss_mib(process):
    with open(f"/proc/{process.pid}/status") as file:
        return int(next(line for line in file if line.startswith("VmRSS")).split()[1]) / 1024


def request(token, path="/v1/models"):
    return f"GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


def exchange(side, data, times):
    """Sends a request `times` times, 16 at a time without waiting, and reads all answers. Returns the first status."""
    first, seen, buffer = None, 0, b""
    sent = 0
    while seen < times:
        if sent - seen < 8 and sent < times:
            side.sendall(data if isinstance(data, bytes) else data(sent))
            sent += 1
            continue
        buffer += side.recv(65536)
        while b"\r\n\r\n" in buffer:
            head, rest = buffer.split(b"\r\n\r\n", 1)
            length = int(next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")).split(b":")[1])
            if len(rest) < length:
                break
            first = first or int(head.split()[1])
            buffer, seen = rest[length:], seen + 1
    return first


def cpu_of(gateway, data, times, wanted):
    """CPU of a request in microseconds, on one connection."""
    with socket.create_connection(("127.0.0.1", gateway.port)) as side:
        assert exchange(side, data, 200) == wanted
        before = cpu_seconds(gateway.process)
        exchange(side, data, times)
        return (cpu_seconds(gateway.process) - before) / times * 1e6


def compare_credentials(rounds=30, times=3_000):
    """CPU of a request with a key, and with a token that is known, in turns that are short beside the machine's moods."""
    with Issuer(Key("one", "RS256")) as issuer, Stub(b"{}") as stub:
        keys = {"reader": ["--permissions", "read"]}
        with Gateway(stub.port, keys, config=f"{ROUTES}{issuer.config(UNLIMITED)}") as gateway:
            token = issuer.token(exp=int(time.time()) + 3600)
            requests = {"key": request(gateway.tokens["reader"]), "token": request(token)}
            costs = {name: [] for name in requests}
            for turn in range(rounds):
                for name in sorted(requests, reverse=turn % 2):
                    costs[name].append(cpu_of(gateway, requests[name], times, 200))
            key, known = (statistics.median(costs[name]) for name in ("key", "token"))
            ratio = statistics.median(known / key for key, known in zip(costs["key"], costs["token"]))
            print(f"CPU of a request: key {key:.1f} µs, known token of {len(token)} bytes {known:.1f} µs")
            print(f"median ratio {ratio:.3f} of {rounds} turns (aim: 1.10)")


def compare_forgeries(rounds=3, times=6_000):
    """CPU of a request with a wrong key, and with a forged token, each of them new."""
    keys = {"RS256": Key("rsa", "RS256"), "ES256": Key("ec"), "EdDSA": Key("ed", "EdDSA")}
    with Issuer(*keys.values()) as issuer, Stub(b"{}") as stub:
        for attempts in ("off", "{per_address: 20, per: 1m}"):
            config = f"{ROUTES}failed_attempts: {attempts}\nlog: {{audit: false}}\n{issuer.config(UNLIMITED)}"
            with Gateway(stub.port, {"reader": ["--permissions", "read"]}, config=config) as gateway:
                wanted = Either(401, 429)
                for _ in range(rounds):
                    wrong = cpu_of(gateway, lambda number: request(f"sk-wrong-{number}-{time.monotonic_ns()}"), times, wanted)
                    line = [f"failed_attempts {attempts}: wrong key {wrong:.1f} µs"]
                    for name, key in keys.items():
                        signed, _, signature = issuer.token(key=key).rpartition(".")
                        forged = forge(signed, signature)
                        cost = cpu_of(gateway, lambda number, forged=forged: request(forged(number)), times, wanted)
                        line.append(f"{name} {cost:.1f} µs ({cost / wrong:.2f} ×)")
                    print("; ".join(line))


class Either:
    """Compares as one of several values."""

    def __init__(self, *values):
        self.values = values

    def __eq__(self, other):
        return other in self.values


def forge(signed, signature):
    """Makes tokens with other signatures, each of them new."""
    def forged(number):
        head = f"{number:06x}{time.monotonic_ns() & 0xFFFFFF:06x}"
        return f"{signed}.{head}{signature[len(head):]}"

    return forged


def flood(seconds=6, threads=4):
    """p99 of somebody else's requests while others flood with forged tokens, beside a flood of wrong keys."""
    key = Key("ec")
    with Issuer(key) as issuer, Stub(b"{}") as stub:
        config = f"{ROUTES.replace('workers: 1', 'workers: 2')}failed_attempts: {{per_address: 20, per: 1m}}\nlog: {{audit: false}}\n{issuer.config(UNLIMITED)}"
        with Gateway(stub.port, {"reader": ["--permissions", "read"]}, config=config) as gateway:
            signed, _, signature = issuer.token(key=key).rpartition(".")
            forged = forge(signed, signature)
            kinds = {
                "nobody": None,
                "wrong keys": lambda number: request(f"sk-wrong-{number}-{time.monotonic_ns()}"),
                "forged ES256": lambda number: request(forged(number)),
            }
            for name, data in kinds.items():
                stop, count = threading.Event(), [0] * threads

                def attack(worker):
                    with socket.create_connection(("127.0.0.1", gateway.port)) as side:
                        while not stop.is_set():
                            exchange(side, data, 50)
                            count[worker] += 50

                running = [threading.Thread(target=attack, args=(worker,)) for worker in range(threads if data else 0)]
                [thread.start() for thread in running]
                connection, delays = http.client.HTTPConnection("127.0.0.1", gateway.port), []
                until = time.monotonic() + seconds
                while time.monotonic() < until:
                    begun = time.monotonic()
                    connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {gateway.tokens['reader']}"})
                    connection.getresponse().read()
                    delays.append(time.monotonic() - begun)
                stop.set()
                [thread.join() for thread in running]
                connection.close()
                p99 = statistics.quantiles(delays, n=100)[98]
                print(f"flood of {name}: {sum(count) / seconds:.0f} a second; somebody else's p99 {p99 * 1e3:.2f} ms of {len(delays)} requests")


def remember(holders=100_000):
    """Memory after requests of so many holders."""
    key = Key("ed", "EdDSA")
    with Issuer(key) as issuer, Stub(b"{}") as stub:
        with Gateway(stub.port, {"reader": ["--permissions", "read"]}, config=f"{ROUTES}{issuer.config(LIMITED)}", admin=True) as gateway:
            begun = rss_mib(gateway.process)
            with socket.create_connection(("127.0.0.1", gateway.port)) as side:
                for part in range(0, holders, 1000):
                    tokens = [issuer.token(f"system:serviceaccount:evals:{part + number}", exp=int(time.time()) + 3600) for number in range(1000)]
                    assert exchange(side, lambda number: request(tokens[number]), 1000) == 200
            known = gateway.admin_status()["identities"]
            print(f"{known['holders']} holders, {known['tokens']} tokens: RSS {begun:.1f} → {rss_mib(gateway.process):.1f} MiB (aim: 100)")


if __name__ == "__main__":
    parts = {"credentials": compare_credentials, "forgeries": compare_forgeries, "flood": flood, "memory": remember}
    for part in sys.argv[1:] or parts:
        parts[part]()
