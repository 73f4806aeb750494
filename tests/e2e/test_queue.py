"""The queue in front of a real llama.cpp server with four slots, and short forms of `measure_queue.py`."""

import asyncio

import pytest

import measure_queue
from gateway import Gateway
from measure_queue import ask, chat, flood

KEYS = {"flood": ["--permissions", "read,write"], "other": ["--permissions", "read,write"]}


@pytest.fixture(autouse=True)
def bounds():
    """The bounds of the measurements hold here, too."""
    measure_queue.failed.clear()
    yield
    assert not measure_queue.failed


def test_one_request_is_not_behind_the_flood_of_another_key(llama):
    fields = ", queue: {slots: 4, max_waiting: 100, max_wait: 5m}"
    with Gateway(llama, KEYS, fields=fields, admin=True) as gateway:

        async def run():
            flooding = asyncio.create_task(flood(gateway.port, gateway.tokens["flood"], 60, 20))
            while sum(gateway.admin_status()["queues"][0]["waiting"].values()) < 30:
                await asyncio.sleep(0.01)
            other = await ask(gateway.port, gateway.tokens["other"], chat(20))
            waiting = sum(gateway.admin_status()["queues"][0]["waiting"].values())
            return other, waiting, (await flooding)[0]

        other, waiting, answers = asyncio.run(run())
        assert other.status == 200
        assert waiting >= 10, "most of the flood still waits"
        assert other.queued < max(answer.queued for answer in answers) / 2


def test_every_slot_comes_back():
    asyncio.run(measure_queue.of_random(3000))

