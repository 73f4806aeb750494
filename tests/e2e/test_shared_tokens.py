"""Token limits of several replicas on one real Redis, by the usage that a model server reports."""

import asyncio
import contextlib
import json
import threading
import time

import pytest

from fleet import Stub, excess, fleet
from gateway import wait_for
from redis_server import Redis

BODY = json.dumps({"model": "m", "max_tokens": 40, "messages": [{"role": "user", "content": "x" * 20}]}).encode()
# Tokens of an answer, fewer than are reserved for it.
USED = 20
JITTER = 3


def answer(used):
    usage = {"prompt_tokens": 5, "completion_tokens": used - 5, "total_tokens": used}
    return json.dumps({"id": "1", "choices": [], "usage": usage}).encode()


@pytest.fixture(scope="module")
def redis():
    with Redis() as server:
        yield server


def is_complete(replicas):
    """Whether each replica knows of all."""
    return all(len(replica.admin_status()["shared"]["replicas"]) == len(replicas) for replica in replicas)


async def ask(port, key, count=1, pause=0.0):
    """Statuses of so many calls, one after another, over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(BODY)}\r\n\r\n"
    statuses = []
    for _ in range(count):
        writer.write(head.encode() + BODY)
        head_of_answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        [length] = [line for line in head_of_answer.split(b"\r\n") if line.startswith(b"content-length:")]
        await reader.readexactly(int(length.split(b":")[1]))
        statuses.append((int(head_of_answer[9:12]), head_of_answer.decode()))
        if pause:
            await asyncio.sleep(pause)
    writer.close()
    return statuses


@contextlib.contextmanager
def tokens(redis, limit, stub_answer, count=3):
    with Stub(stub_answer) as stub:
        with fleet(count, stub.port, redis.url, f"rate_limits: [{limit}]", ", timeout: 2s", routes="openai") as (replicas, key):
            wait_for("all replicas know of all", lambda: is_complete(replicas))
            yield stub, replicas, key


def test_what_was_reserved_and_not_used_is_granted_by_all_replicas(redis):
    with tokens(redis, "{tokens: 60000, per: 1m, burst: 2000}", answer(USED)) as (stub, replicas, key):

        async def calls():
            begun = time.monotonic()
            while time.monotonic() < begun + 4:
                await asyncio.gather(*(ask(replica.port, key, 5) for replica in replicas for _ in range(4)))

        asyncio.run(calls())
        granted = len(stub.times)
        seconds = max(stub.times) - min(stub.times)
        assert excess(stub.times, 1000 / USED, 2000 / USED) < JITTER
        # A third of each reservation is used: without what comes back, half as much would be granted.
        assert granted >= 0.95 * (2000 / USED + 1000 / USED * seconds) - 5, granted


def test_a_debt_is_one_of_all_replicas(redis):
    with tokens(redis, "{tokens: 600, per: 1m, burst: 200}", answer(1200)) as (_, replicas, key):
        statuses = [asyncio.run(ask(replicas[0].port, key))[0]]
        assert statuses[0][0] == 200
        # 1,000 tokens more than the burst were used: at ten a second, nobody is granted any for a minute.
        wait_for("the others know of the debt", lambda: all(asyncio.run(ask(replica.port, key))[0][0] == 429 for replica in replicas))
        for replica in replicas:
            [(status, head)] = asyncio.run(ask(replica.port, key))
            wait = int(head.split("retry-after: ")[1].split("\r")[0])
            assert status == 429 and 90 <= wait <= 105, head


def test_requests_that_end_late_give_nothing_back_that_was_granted_to_others(redis):
    with tokens(redis, "{tokens: 6000, per: 1m, burst: 400}", answer(5)) as (stub, replicas, key):
        stub.delay = 6
        held, used = [], threading.Event()

        def hold():
            # Each reserves some 45 tokens. What the bucket regains meanwhile is granted to the next ones.
            held.extend(asyncio.run(hold_for(replicas, key, 5)))
            used.set()

        thread = threading.Thread(target=hold)
        thread.start()
        thread.join()
        stub.delay = 0
        begun = len(stub.times)
        statuses = []
        for replica in replicas:
            statuses += asyncio.run(ask(replica.port, key, 40))
        # The bucket is full at most: 400 tokens, and what comes in the time of the calls.
        granted = len(stub.times) - begun
        seconds = stub.times[-1] - stub.times[begun]
        assert granted * 5 <= 400 + 100 * seconds + 45 * 3, granted
        assert held and all(status == 200 for status, _ in held)


async def hold_for(replicas, key, seconds):
    """Calls that are answered late: as many as the limit grants in this time."""
    begun, calls = time.monotonic(), []
    while time.monotonic() < begun + seconds:
        calls += [asyncio.ensure_future(ask(replica.port, key)) for replica in replicas]
        await asyncio.sleep(0.5)
    answers = [statuses[0] for statuses in await asyncio.gather(*calls)]
    return [answer for answer in answers if answer[0] == 200]
