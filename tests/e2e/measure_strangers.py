"""Attacks by unauthenticated clients and their effect on key holders (`make measure-hostile`).

Each attack runs beside a well-behaved client that sends a hundred requests per second. Reported are
that client's p99 relative to its p99 without an attack, the peak memory of the gateway above its
start, and requests, connections and streams that remain five seconds after the attack.
"""

import asyncio
import contextlib
import pathlib
import socket
import time

import h2.config
import h2.connection
import h2.settings
from gateway import Gateway
from live import Upstream
from soak import read_body, send

KEYS = {"ci": ["--permissions", "read,write"]}
ROUTES = """routes:
  - {name: health, paths: [/health, /open], public: true}
  - {name: rest, paths: ['/**'], permission: read}
"""
MIB = 1024


class Model(Upstream):
    """Upstream that answers at once, except `/open`, which it never answers."""

    async def serve(self, reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                if " /open " in head:
                    while await reader.read(65536):
                        pass
                    return
                await read_body(head, reader)
                await send(writer, b"ok")
        writer.close()


def streams(count, path, token=None):
    """Bytes of a client that opens `count` streams with no window for their answers.

    From the second stream on, HPACK refers to the headers of the first.
    """
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    settings = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0, h2.settings.SettingCodes.ENABLE_PUSH: 0}
    connection.local_settings = h2.settings.Settings(client=True, initial_values=settings)
    connection.initiate_connection()
    fields = [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "a")]
    if token:
        fields.append(("authorization", f"Bearer {token}"))
    # The client ignores the server's bound of concurrent streams, because that bound is under test.
    connection.remote_settings = h2.settings.Settings(
        client=False, initial_values={h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 2**31 - 1}
    )
    for number in range(count):
        connection.send_headers(2 * number + 1, fields, end_stream=True)
    return connection.data_to_send()


class Flood:
    """Connections that send data and read nothing."""

    def __init__(self, port):
        self.port, self.sides, self.sent = port, [], 0

    async def open(self, count, payload):
        for _ in range(count):
            side = socket.socket()
            side.setblocking(False)
            loop = asyncio.get_running_loop()
            with contextlib.suppress(OSError):
                await loop.sock_connect(side, ("127.0.0.1", self.port))
                await loop.sock_sendall(side, payload)
                self.sent += len(payload)
            self.sides.append(side)

    async def drip(self, seconds, piece):
        """Sends `piece` on each connection once per second."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for side in self.sides:
                with contextlib.suppress(OSError):
                    side.send(piece)
            await asyncio.sleep(1)

    def close(self):
        for side in self.sides:
            side.close()


async def peak(gateway, seconds):
    """Peak memory in KiB within this time."""
    most, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        most = max(most, gateway.rss_kib())
        await asyncio.sleep(0.1)
    return most


async def attack(report, asking_of, name, config, begin, seconds=20, most_log=None):
    """Runs one attack and reports its effect.

    `begin`: a coroutine function that takes the gateway and returns an open flood.
    """
    async with Model() as model:
        with Gateway(model.port, KEYS, config=ROUTES + config, admin=True) as gateway:
            asking, start = asking_of(gateway), gateway.rss_kib()
            asking.start(8)
            quiet, _, _ = await asyncio.to_thread(asking.p99)
            watching, attacking = asyncio.create_task(peak(gateway, seconds + 1)), asyncio.create_task(begin(gateway))
            await asyncio.sleep(1)
            # The well-behaved client connects while the attack is running.
            asking.start(seconds)
            flood = await attacking
            grown = (await watching - start) / MIB
            p99, failed, asked = await asyncio.to_thread(asking.p99)
            report(
                f"{name}: p99 of a key holder, failed", f"{p99:.2f} ms = {p99 / quiet:.2f} x, {failed} of {asked}",
                "<= 3 x, none", p99 <= 3 * quiet and failed == 0,
            )
            report(f"{name}: memory over the start, at most", f"{grown:.1f} MiB", "<= 64 MiB", grown <= 64)
            if most_log is not None:
                written = sum(len(line) for line in gateway.lines if '"client"' in line or "left_out" in line)
                share = written / flood.sent
                report(f"{name}: bytes of log for a byte sent", f"{share:.2f}", f"<= {most_log}", share <= most_log)
            flood.close()
            await asyncio.sleep(5)
            status = await asyncio.to_thread(gateway.admin_status)
            # The admin connection of this request is not counted in them.
            left = (status["requests_in_flight"], status["connections"], status["open_streams"])
            report(f"{name}: in flight, connections, streams 5 s later", str(left), "(0, 0, 0)", left == (0, 0, 0))


async def window(gateway):
    flood = Flood(gateway.port)
    await flood.open(51, streams(200, "/health"))
    return flood


async def refused(gateway):
    flood = Flood(gateway.port)
    await flood.open(300, streams(200, "/v1/" + "x" * 3900))
    return flood


async def endless(gateway):
    flood = Flood(gateway.port)
    await flood.open(1200, b"POST /open HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    await flood.drip(12, b"1\r\nx\r\n")
    return flood


async def idle(gateway):
    flood = Flood(gateway.port)
    await flood.open(60, b"")
    return flood


async def long_paths(gateway):
    flood = Flood(gateway.port)
    path = "/v1/" + "x" * 3900
    await flood.open(170, f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    return flood


async def unauthenticated_clients(report, asking_of):
    """Runs all attacks in sequence."""
    await attack(report, asking_of, "10200 streams without a window", "", window)
    await attack(report, asking_of, "60000 refused streams, long paths", "", refused, most_log=10)
    await attack(report, asking_of, "1200 bodies without an end", "", endless, seconds=25)
    await attack(report, asking_of, "60 idle clients without a key, 50 connections", "limits: {connections: 50}\n", idle)
    await attack(report, asking_of, "170 refusals of long paths", "", long_paths, most_log=10)
