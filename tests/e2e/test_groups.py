"""Limits and budgets of a group, under a load of all its keys at once."""

import asyncio
import collections

import pytest

from fleet import Stub
from gateway import Gateway

KEYS, CONNECTIONS, EACH = 100, 64, 40
ROUTES = "routes: [{name: all, paths: ['/**'], permission: read, model_in: body}]\nworkers: 2\n"
BODY = b'{"model":"m","max_tokens":6}'


async def hammer(port, tokens):
    """Sends `EACH` requests of each key over all connections at once. Returns the statuses by key."""
    statuses, todo = collections.defaultdict(collections.Counter), [token for _ in range(EACH) for token in tokens]

    async def connection():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while todo:
            token = todo.pop()
            head = f"POST /x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = [line for line in answer.split(b"\r\n") if line.startswith(b"content-length:")]
            await reader.readexactly(int(length[0].split(b":")[1]))
            statuses[token][int(answer[9:12])] += 1
        writer.close()

    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))
    return statuses


@pytest.mark.parametrize(
    ("of_group", "of_key", "most", "most_of_key"),
    [
        ("rate_limits: [{requests: 1000, per: 1d, burst: 1000}]", "20/1d/20", 1000, 20),
        ("budgets: [{requests: 700, every: day}]", "20/1d/20", 700, 20),
        ("budgets: [{tokens: 6000, every: month}]", "1000/1d/1000", 1000, 1000),
        ("rate_limits: [{requests: 1000, per: 1d, burst: 1000}]", "7/1d/7", 700, 7),
    ],
    ids=["limit", "budget", "tokens", "keys"],
)
def test_the_limit_of_a_group_holds_to_the_request(tmp_path, of_group, of_key, most, most_of_key):
    keys = {f"key-{number}": ["--permissions", "read", "--group", "team", "--rate", of_key] for number in range(KEYS)}
    config = f"{ROUTES}state: {{path: {tmp_path / 'state'}}}\ngroups: [{{name: team, {of_group}}}]\n"
    # What a request reserves is no less than what it uses.
    answer = b'{"usage":{"prompt_tokens":0,"completion_tokens":6}}'
    with Stub(answer) as stub, Gateway(stub.port, keys, config=config) as gateway:
        statuses = asyncio.run(hammer(gateway.port, list(gateway.tokens.values())))
        granted = sum(of[200] for of in statuses.values())
        assert set().union(*statuses.values()) <= {200, 429}
        assert max(of[200] for of in statuses.values()) <= most_of_key
        assert len(stub.times) == granted
        # A request that reserves too many tokens is refused while they are reserved.
        least = most if "tokens" not in of_group else 0.9 * most
        assert least <= granted <= most, granted
