"""Limits of several replicas on one real Redis."""

import asyncio
import threading
import time

import pytest

from fleet import Stub, excess, fleet, offer
from gateway import wait_for
from redis_server import Redis

# What the delays of requests on their way to the stub may add, in requests.
JITTER = 3


@pytest.fixture(scope="module")
def redis():
    with Redis() as server:
        yield server


def are_all_available(replicas):
    return all(any("server for shared limits is available" in line for line in replica.lines) for replica in replicas)


@pytest.mark.parametrize("shares", [None, [0.9, 0.05, 0.05]], ids=["even", "skewed"])
@pytest.mark.parametrize("limit, burst, rate", [(600, 30, 100), (6000, 100, 400), (600, 5, 60)])
def test_replicas_grant_one_limit_together(redis, limit, burst, rate, shares):
    seconds = 4
    with Stub() as stub, fleet(3, stub.port, redis.url, f"rate_limits: [{{requests: {limit}, per: 1m, burst: {burst}}}]") as (replicas, key):
        wait_for("all replicas reach redis", lambda: are_all_available(replicas))
        statuses, _ = asyncio.run(offer(replicas, key, rate, seconds, shares))
        assert {status for _, status in statuses} == {200, 429}
        assert excess(stub.times, limit / 60, burst) < JITTER
        assert len(stub.times) >= 0.97 * (burst + limit / 60 * (seconds - 0.1)) - 1, len(stub.times)


def test_an_outage_of_redis_costs_nothing_and_grants_nothing_more(redis):
    with Redis() as own, Stub() as stub:
        with fleet(3, stub.port, own.url, "rate_limits: [{requests: 1200, per: 1m, burst: 30}]") as (replicas, key):
            wait_for("all replicas reach redis", lambda: are_all_available(replicas))
            times = {}

            def outage():
                time.sleep(2)
                own.kill()
                times["away"] = time.monotonic()
                time.sleep(4)
                own.start()
                times["back"] = time.monotonic()

            thread = threading.Thread(target=outage)
            thread.start()
            statuses, delays = asyncio.run(offer(replicas, key, 90, 10))
            thread.join()
            assert {status for _, status in statuses} == {200, 429}
            assert excess(stub.times, 20, 30) < JITTER
            away = sum(times["away"] <= moment < times["back"] for moment in stub.times)
            assert away >= 0.8 * 20 * (times["back"] - times["away"]), away
            after = sum(moment >= times["back"] + 2 for moment in stub.times)
            assert after >= 0.9 * 20 * (max(moment for moment, _ in statuses) - times["back"] - 2), after
            # `shared.timeout` is 50 ms; the rest is the machine's.
            assert delays[-1] < 0.2, delays[-5:]


def test_without_redis_a_configuration_may_refuse(redis):
    limits = "rate_limits: [{requests: 600, per: 1m}]"
    with Stub() as stub, fleet(1, stub.port, "redis://127.0.0.1:1", limits, ", when_unavailable: refuse, replicas: 1") as (replicas, key):
        statuses, _ = asyncio.run(offer(replicas, key, 20, 0.5))
        assert {status for _, status in statuses} == {503}


def test_requests_in_flight_are_counted_over_all_replicas(redis):
    with Stub() as stub, fleet(3, stub.port, redis.url, "max_concurrent: 5") as (replicas, key):
        wait_for("all replicas reach redis", lambda: are_all_available(replicas))
        stub.delay = 0.2
        statuses, _ = asyncio.run(offer(replicas, key, 100, 3))
        assert {status for _, status in statuses} == {200, 429}
        assert stub.most == 5
        wait_for("slots are given back", lambda: not redis.cli("--scan", "--pattern", "*:slots"))
        # The slots of a replica that dies come back.
        stub.delay, stub.most = 5, 0
        held = threading.Thread(target=lambda: asyncio.run(hold(replicas[0].port, key, 5)), daemon=True)
        held.start()
        wait_for("all slots are in use", lambda: stub.in_flight >= 5)
        replicas[0].process.kill()
        killed = time.monotonic()
        stub.delay = 0

        def granted():
            statuses, _ = asyncio.run(offer(replicas[1:2], key, 50, 0.05))
            return any(status == 200 for _, status in statuses)

        wait_for("slots come back", granted)
        assert time.monotonic() - killed < 3


async def hold(port, key, count):
    """Sends requests, and waits for no answer."""
    sides = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    for _, writer in sides:
        writer.write(f"GET /x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
    await asyncio.sleep(10)
