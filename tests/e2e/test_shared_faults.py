"""Ways to be granted more than a limit that replicas share, or less, which were found by attacks."""

import asyncio
import collections
import contextlib
import http.client
import json
import random
import subprocess
import time

import pytest
import trustme

from fault_proxy import FaultProxy
from fleet import Stub, excess, fleet, offer
from gateway import Gateway, binary, wait_for
from redis_server import Redis

# A long timeout, so that a busy machine keeps no replica from an answer in time.
PATIENT = ", timeout: 2s"
# What the delays of requests on their way to the stub may add, in requests.
JITTER = 2
RIGHT = "sk-" + "a1b2c3d4e5f6" * 3


@pytest.fixture
def redis():
    with Redis() as server:
        yield server


@pytest.fixture
def stub():
    with Stub() as server:
        yield server


def wait_for_all(replicas):
    def is_complete(replica):
        shared = replica.admin_status()["shared"]
        return shared["is_available"] and len(shared["replicas"]) == len(replicas)

    wait_for("all replicas know of all", lambda: all(map(is_complete, replicas)))


def statuses(replica, key, count, body=None):
    """Statuses of so many requests, one after another."""
    connection = http.client.HTTPConnection("127.0.0.1", replica.port, timeout=10)
    found = []
    for _ in range(count):
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        connection.request("POST" if body else "GET", "/v1/chat/completions", body, headers)
        answer = connection.getresponse()
        answer.read()
        found.append(answer.status)
    connection.close()
    return found


def granted(replicas, key, count):
    return sum(statuses(replica, key, count).count(200) for replica in replicas)


def test_a_lease_that_ended_gives_nothing_back_that_was_regained(redis, stub):
    limits = "rate_limits: [{requests: 1200, per: 1m, burst: 60}]"
    with fleet(3, stub.port, redis.url, limits, PATIENT) as (replicas, key):
        wait_for_all(replicas)
        asyncio.run(offer(replicas, key, 19, 2))
        before = len(stub.times)
        # The leases end, and the bucket regains all: there is no request meanwhile.
        full = time.monotonic() + 3.5
        wait_for("the bucket is full", lambda: time.monotonic() > full)
        for replica in replicas:
            statuses(replica, key, 90)
        assert excess(stub.times[before:], 20, 60) < JITTER


def test_a_server_that_loses_its_data_gives_no_fresh_limit(redis, stub):
    limits = "rate_limits: [{requests: 10, per: 1h, burst: 10}]"
    with fleet(2, stub.port, redis.url, limits, PATIENT) as (replicas, key):
        wait_for_all(replicas)
        assert granted(replicas, key, 12) == 10
        redis.cli("FLUSHALL")
        assert granted(replicas, key, 12) == 0, "before a heartbeat could tell of it"


def test_a_server_that_begins_with_older_data_gives_no_fresh_limit(redis, stub):
    limits = "rate_limits: [{requests: 10, per: 1h, burst: 10}]"
    with fleet(2, stub.port, redis.url, limits, PATIENT) as (replicas, key):
        wait_for_all(replicas)
        redis.cli("SAVE")
        saved = time.monotonic()
        assert granted(replicas, key, 12) == 10
        # Older than replication may be behind.
        wait_for("the data is old", lambda: time.monotonic() > saved + 3)
        redis.kill()
        redis.start()
        wait_for_all(replicas)
        assert granted(replicas, key, 12) == 0


def test_a_limit_that_only_counts_refuses_nothing(redis, stub):
    limits = "rate_limits: [{tokens: 100, per: 1m, enforce: false}]"
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "word " * 2000}], "max_tokens": 5})
    for url in (None, redis.url):
        with fleet(1, stub.port, url, limits, PATIENT if url else "", routes="openai") as (replicas, key):
            assert statuses(replicas[0], key, 3, body) == [200] * 3


def test_slots_of_requests_that_left_come_back(redis, stub):
    with FaultProxy(redis.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}"
        with fleet(1, stub.port, url, "max_concurrent: 16", PATIENT) as ([replica], key):
            wait_for_all([replica])
            asyncio.run(hang_up(replica.port, key, 3000))
            wait_for("no slot is held", lambda: not redis.cli("--scan", "--pattern", "*:slots"), seconds=10)
            assert statuses(replica, key, 3) == [200] * 3


async def hang_up(port, key, count):
    """Requests whose clients leave after some milliseconds, at a random moment."""
    ask = f"GET /x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
    moments = random.Random(7)

    async def one():
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(ask)
            await asyncio.sleep(moments.random() * 0.004)
            writer.transport.abort()

    for _ in range(count // 40):
        await asyncio.gather(*(one() for _ in range(40)))


def test_requests_that_began_without_the_server_count_when_it_is_back(redis, stub):
    with fleet(2, stub.port, redis.url, "max_concurrent: 4", PATIENT) as (replicas, key):
        wait_for_all(replicas)
        redis.kill()
        wait_for("both have lost it", lambda: not any(replica.admin_status()["shared"]["is_available"] for replica in replicas))
        stub.delay = 8
        sides = asyncio.new_event_loop()
        try:
            held = [sides.run_until_complete(begin(replica.port, key)) for replica in replicas for _ in range(2)]
            wait_for("each has its part in flight", lambda: stub.in_flight == 4)
            redis.start()
            wait_for_all(replicas)
            stub.delay = 0
            assert granted(replicas, key, 3) == 0
            held.clear()
        finally:
            sides.close()


async def begin(port, key):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
    await writer.drain()
    return reader, writer


def test_guesses_at_once_are_no_more_than_guesses_one_after_another(redis, stub, tmp_path):
    keys = tmp_path / "keys.txt"
    keys.write_text(f"{RIGHT}\n")
    keys.chmod(0o600)
    with FaultProxy(redis.port) as proxy:
        proxy.become("delay", 0.015)
        config = (
            f"keys: {{path: {keys}, allow_plaintext: true}}\nshared: {{redis: redis://127.0.0.1:{proxy.port}{PATIENT}}}\n"
            "failed_attempts: {per_address: 5, per: 1m}\nroutes: [{name: all, paths: ['/**'], permission: read}]\nworkers: 1\n"
        )
        with Gateway(stub.port, {}, config=config, admin=True) as gateway:
            wait_for_all([gateway])
            *wrong, right = asyncio.run(guesses(gateway.port, 100))
    assert collections.Counter(wrong)[401] <= 5 and set(wrong) == {401, 429}, wrong
    assert right == 429


async def guesses(port, count):
    """Statuses of wrong guesses that are sent at once, and of the right one behind them."""
    sides = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count + 1)]
    secrets = [f"sk-wrong{number:030d}" for number in range(count)] + [RIGHT]
    for (_, writer), secret in zip(sides, secrets):
        writer.write(f"GET /x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {secret}\r\n\r\n".encode())
    answers = [int((await reader.readuntil(b"\r\n\r\n"))[9:12]) for reader, _ in sides]
    for _, writer in sides:
        writer.close()
    return answers


def test_one_client_that_goes_from_replica_to_replica_is_not_refused(redis, stub):
    with fleet(2, stub.port, redis.url, "max_concurrent: 1", PATIENT) as (replicas, key):
        wait_for_all(replicas)
        found = []
        for number in range(20):
            found += statuses(replicas[number % 2], key, 1)
            asked = time.monotonic()
            wait_for("a moment passes", lambda: time.monotonic() > asked + 0.06)
        assert found.count(429) <= 2, found


@pytest.mark.parametrize(
    "fields, fault",
    [
        ("redis: redis://a, tls: {ca: CA}", "has no effect on a server without TLS"),
        ("redis: rediss://a, tls: {ca: EMPTY}", "no certificates"),
    ],
)
def test_tls_that_can_not_work_is_refused(stub, tmp_path, fields, fault):
    (tmp_path / "empty.pem").write_text("# nothing\n")
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    fields = fields.replace("CA", str(tmp_path / "ca.pem")).replace("EMPTY", str(tmp_path / "empty.pem"))
    Gateway.create(tmp_path / "keys.yaml", "reader", "--permissions", "read")
    (tmp_path / "bearward.yaml").write_text(
        f"listeners: [{{address: 127.0.0.1:0}}]\nupstreams: [{{name: m, endpoints: [http://127.0.0.1:{stub.port}]}}]\n"
        f"keys: {{path: {tmp_path / 'keys.yaml'}}}\nshared: {{{fields}}}\n"
    )
    run = subprocess.run([binary(), "check", "--config", str(tmp_path / "bearward.yaml")], capture_output=True, text=True)
    assert run.returncode == 78 and fault in run.stderr, run.stderr
