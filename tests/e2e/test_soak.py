"""Short soak test: all kinds of traffic at once. `make soak` runs the long one."""

import asyncio

from soak import soak


def test_no_answer_is_wrong_and_nothing_leaks():
    assert asyncio.run(soak(minutes=0.25, warm_up=8)) == []
