"""Measurements of hostile clients and their effect on others: `make measure-hostile`.

Covers slow clients (slowhttptest), floods of HTTP/2, more connections than descriptors, thousands
of idle connections and stalled streams, attacks by unauthenticated clients (measure_strangers.py),
and the findings of testssl.sh.

The well-behaved client is a separate process that sends a hundred requests per second. Its p99
during an attack is compared with its p99 before it, in the same run.
"""

import argparse
import asyncio
import contextlib
import csv
import json
import os
import pathlib
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import h2.config
import h2.connection
from gateway import Gateway
from live import Upstream, read_answer, request
from measure_strangers import unauthenticated_clients
from soak import pattern, read_body, send

KEYS = {"ci": ["--permissions", "read,write"]}
# Figures that exceeded their bounds.
FAULTS = []


class Model(Upstream):
    """Upstream that answers at once; the answer of `/large` has a megabyte."""

    async def serve(self, reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                await read_body(head, reader)
                await send(writer, pattern(1024 * 1024) if " /large " in head else b"ok")
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


async def probe(port, token, seconds):
    """The well-behaved client: prints the milliseconds of each request, `null` for a failed one."""
    end, found = time.monotonic() + seconds, []
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.monotonic() < end:
        started = time.monotonic()
        try:
            writer.write(request(token, "/x"))
            status, _, body = await asyncio.wait_for(read_answer(reader), 10)
            found.append((time.monotonic() - started) * 1000 if (status, body) == (200, b"ok") else None)
        except (OSError, TypeError, TimeoutError, asyncio.IncompleteReadError):
            found.append(None)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.sleep(max(0, 0.01 - (time.monotonic() - started)))
    print(json.dumps(found))


class Asking:
    """The well-behaved client, as a process beside the attack."""

    def __init__(self, gateway):
        self.command = [sys.executable, __file__, "--probe", str(gateway.port), gateway.tokens["ci"]]

    def start(self, seconds):
        self.process = subprocess.Popen([*self.command, str(seconds)], stdout=subprocess.PIPE, text=True)

    def p99(self):
        found = json.loads(self.process.communicate()[0])
        failed = sum(each is None for each in found)
        times = sorted(each for each in found if each is not None)
        return times[int(len(times) * 0.99)], failed, len(found)


def report(subject, value, bound="", holds=True):
    print(f"{subject:58}{value:>34}{bound:>26}{'' if holds else '   EXCEEDED'}", flush=True)
    if not holds:
        FAULTS.append(f"{subject}: {value}, bound: {bound}")


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def quiet(asking, seconds):
    asking.start(seconds)
    return (await asyncio.to_thread(asking.p99))[0]


async def slow_clients(gateway, asking, seconds, connections):
    """slowhttptest's four attacks. Its report says whether the service stayed available."""
    before = await quiet(asking, 15)
    report("p99 of the well-behaved client, quiet", f"{before:.2f} ms")
    # The key goes into a header option of the tool, so the slow request is a permitted one.
    key = ["-m", f"*/*\r\nAuthorization: Bearer {gateway.tokens['ci']}"]
    attacks = {
        "slow headers": ["-H", "-i", "5"],
        "slow body": ["-B", "-i", "5", "-s", "8192"],
        "slow read": ["-X", "-w", "512", "-y", "1024", "-n", "5", "-z", "32", "-k", "3"],
        "range": ["-R", "-a", "1", "-b", "3000"],
    }
    for name, options in attacks.items():
        with tempfile.TemporaryDirectory() as directory:
            url = f"http://127.0.0.1:{gateway.port}/large"
            command = ["slowhttptest", "-c", str(connections), "-r", "400", "-l", str(seconds), "-p", "5"]
            command += [*options, *key, "-u", url, "-g", "-o", f"{directory}/report"]
            asking.start(seconds + 3)
            process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
            await process.wait()
            p99, failed, asked = await asyncio.to_thread(asking.p99)
            rows = list(csv.DictReader((pathlib.Path(directory) / "report.csv").open()))
        away = sum(int(row["Service Available"]) == 0 for row in rows)
        most = max(int(row["Connected"]) for row in rows)
        report(f"{name}: {most} connected at most, service away", f"{away} of {len(rows)} s", "none", away == 0)
        report(
            f"{name}: p99 of the well-behaved client, failed", f"{p99:.2f} ms = {p99 / before:.2f} x, {failed} of {asked}",
            "<= 3 x, none", p99 <= 3 * before and failed == 0,
        )


def opened():
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    return connection


def fields(token):
    return [(":method", "GET"), (":scheme", "http"), (":path", "/x"), (":authority", "a"), ("authorization", f"Bearer {token}")]


async def until_the_end(reader):
    with contextlib.suppress(OSError):
        await reader.read()


async def flood(port, pieces, seconds):
    """Sends pieces evenly over the time, on a new connection each time the server closes one.

    Returns the number of sent pieces and of connections.
    """
    sent = connections = 0
    writer, started = None, time.monotonic()
    for number, piece in enumerate(pieces):
        if writer is None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(opened().data_to_send())
            connections += 1
            ending = asyncio.create_task(until_the_end(reader))
        try:
            writer.write(piece)
            await writer.drain()
            sent += 1
        except OSError:
            writer = None
            continue
        if ending.done():
            writer.close()
            writer = None
        ahead = started + seconds * number / len(pieces) - time.monotonic()
        if ahead > 0:
            await asyncio.sleep(ahead)
    if writer:
        writer.close()
    return sent, connections


async def floods(gateway, asking, resets):
    before, rss = await quiet(asking, 15), gateway.rss_kib()
    report("p99 of the well-behaved client, quiet", f"{before:.2f} ms")
    each = []
    for _ in range(resets // 100):
        connection = opened()
        connection.data_to_send()
        for number in range(100):
            connection.send_headers(2 * number + 1, fields(gateway.tokens["ci"]), end_stream=True)
            connection.reset_stream(2 * number + 1)
        each.append(connection.data_to_send())
    ping = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00pingping" * 1000
    settings = b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64" * 1000
    for name, pieces in {
        f"{resets} rapid resets": each, "400000 PING": [ping] * 400, "400000 SETTINGS": [settings] * 400
    }.items():
        asking.start(21)
        sent, connections = await flood(gateway.port, pieces, 20)
        p99, failed, asked = await asyncio.to_thread(asking.p99)
        report(f"{name} in 20 s: connections that were ended", f"{connections - 1} after {sent} of {len(pieces)} pieces", "at least one", connections > 1)
        report(
            f"{name}: p99 of the well-behaved client, failed", f"{p99:.2f} ms = {p99 / before:.2f} x, {failed} of {asked}",
            "<= 3 x, none", p99 <= 3 * before and failed == 0,
        )
        await asyncio.sleep(3)
        grown = (gateway.rss_kib() - rss) / 1024
        report(f"{name}: RSS afterwards, against before", f"{grown:+.1f} MiB", "<= +10 MiB", grown <= 10)


async def starved(model):
    """256 descriptors, a thousand connections: the process survives, is idle, and recovers."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def limited():
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    with Gateway(model.port, KEYS, config="routes: any\n", before_start=limited) as gateway:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard[1], hard[1]))
        held = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(1000)]
        await asyncio.sleep(1)
        before, began = cpu_seconds(gateway.process.pid), time.monotonic()
        await asyncio.sleep(5)
        share = (cpu_seconds(gateway.process.pid) - before) / (time.monotonic() - began)
        alive = gateway.process.poll() is None
        report("256 descriptors, 1000 connections: lives", str(alive), "True", alive)
        report("… its share of a core while starved", f"{share:.1%}", "<= 20%", share <= 0.2)
        for each in held:
            each.close()
        relief = time.monotonic()
        while True:
            with contextlib.suppress(OSError, TypeError, TimeoutError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
                writer.write(request(gateway.tokens["ci"], "/x"))
                status, _, _ = await asyncio.wait_for(read_answer(reader), 1)
                writer.close()
                if status == 200:
                    break
        took = time.monotonic() - relief
        report("… the first answer after relief", f"{took:.2f} s", "<= 1 s", took <= 1)


async def starved_by_streams():
    """256 descriptors, 600 streams: reserved descriptors serve other clients and files."""

    async def hang(reader, writer):
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await reader.read()
        writer.close()

    def limited():
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    server = await asyncio.start_server(hang, "127.0.0.1", 0, backlog=1000)
    port = server.sockets[0].getsockname()[1]
    with Gateway(port, KEYS, config="routes: any\n", admin=True, before_start=limited) as gateway:
        held = []
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            connection = opened()
            for number in range(200):
                connection.send_headers(2 * number + 1, fields(gateway.tokens["ci"]), end_stream=True)
            writer.write(connection.data_to_send())
            held.append((reader, writer))
        await asyncio.sleep(1)
        fds = len(os.listdir(f"/proc/{gateway.process.pid}/fd"))
        report("600 streams, 256 descriptors: in use", str(fds), "<= 240", fds <= 240)
        keys = (await asyncio.to_thread(gateway.reload)).get("data", {}).get("keys")
        report("… a reload", f"keys: {keys}", "unchanged", keys == "unchanged")
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(request(gateway.tokens["ci"], "/x"))
        status, _, body = await asyncio.wait_for(read_answer(reader), 5)
        code = json.loads(body)["error"]["code"]
        report("… another client", f"{status} {code}", "503 OVERLOADED", (status, code) == (503, "OVERLOADED"))
        for _, each in held:
            each.close()
        writer.close()
    server.close()


async def many(model):
    """Ten thousand idle connections, and a thousand unread answers of a megabyte."""
    with Gateway(model.port, KEYS, config="routes: any\nlimits: {connections: 12000, idle_timeout: 5m}\n") as gateway:
        before = gateway.rss_kib()
        idle = []
        for _ in range(10_000):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(request(gateway.tokens["ci"], "/x"))
            await read_answer(reader)
            idle.append(writer)
        each = (gateway.rss_kib() - before) / len(idle)
        report("10000 idle connections: memory of each", f"{each:.1f} KiB", "", True)
        for writer in idle:
            writer.close()
        await asyncio.sleep(2)
        between = gateway.rss_kib()
        stalled = []
        for _ in range(1000):
            side = socket.socket()
            side.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            side.setblocking(True)
            await asyncio.to_thread(side.connect, ("127.0.0.1", gateway.port))
            side.sendall(request(gateway.tokens["ci"], "/large"))
            stalled.append(side)
            if len(stalled) % 50 == 0:
                await asyncio.sleep(0.1)
        await asyncio.sleep(3)
        grown = (gateway.rss_kib() - between) / len(stalled)
        report("1000 stalled answers of 1 MiB: memory of each", f"{grown:.1f} KiB", "<= 512 KiB", grown <= 512)
        for side in stalled:
            side.close()


def testssl(gateway):
    """Findings of testssl.sh above LOW, with the test authority trusted."""
    program = shutil.which("testssl") or shutil.which("testssl.sh")
    with tempfile.TemporaryDirectory() as directory:
        found = pathlib.Path(directory) / "found.json"
        command = [program, "--quiet", "--color", "0", "--add-ca", gateway.ca, "--jsonfile", str(found), "--warnings", "off"]
        subprocess.run([*command, f"localhost:{gateway.port}"], stdout=subprocess.DEVNULL, timeout=600)
        findings = json.loads(found.read_text())
    above = [each for each in findings if each["severity"] in ("MEDIUM", "HIGH", "CRITICAL", "FATAL")]
    # Findings that any certificate for a test on loopback has.
    of_certificate = re.compile("cert_|DNS_CAA|OCSP|chain_of_trust|engine_problem|HSTS|overall|security_headers")
    excluded = [each for each in above if of_certificate.match(each["id"])]
    rest = [each for each in above if each not in excluded]
    for each in excluded:
        print(f"  left out: {each['id']} ({each['severity']}): {each['finding'][:90]}")
    for each in rest:
        print(f"  {each['id']} ({each['severity']}): {each['finding'][:120]}")
    report(f"testssl.sh: above LOW, of {len(findings)} findings", str(len(rest)), "none", not rest)


async def main(arguments):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    chosen = arguments.only or ["strangers", "slow", "floods", "starved", "many", "testssl"]
    if "strangers" in chosen:
        await unauthenticated_clients(report, Asking)
    async with Model() as model:
        with Gateway(model.port, KEYS, config="routes: any\n") as gateway:
            asking = Asking(gateway)
            if "slow" in chosen:
                await slow_clients(gateway, asking, arguments.seconds, 2000)
            if "floods" in chosen:
                await floods(gateway, asking, 100_000)
        if "starved" in chosen:
            await starved(model)
            await starved_by_streams()
        if "many" in chosen:
            await many(model)
        if "testssl" in chosen:
            with Gateway(model.port, KEYS, config="routes: any\n", tls=True) as gateway:
                await asyncio.to_thread(testssl, gateway)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--probe"]:
        asyncio.run(probe(int(sys.argv[2]), sys.argv[3], float(sys.argv[4])))
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="some of strangers, slow, floods, starved, many, testssl")
    parser.add_argument("--seconds", type=int, default=60, help="duration of each attack of slowhttptest")
    asyncio.run(main(parser.parse_args()))
    sys.exit(bool(FAULTS))
