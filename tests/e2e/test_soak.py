"""A short soak: everything at once is right, and nothing is left over. `make soak` is the long one."""

import asyncio

from soak import soak


def test_nothing_is_wrong_and_nothing_is_left_over():
    assert asyncio.run(soak(minutes=0.25, warm_up=8)) == []
