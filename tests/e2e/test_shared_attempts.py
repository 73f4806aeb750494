"""Failed attempts of an address, counted over several replicas on one real Redis."""

import http.client
import time

import pytest

from fleet import Stub, fleet
from gateway import wait_for
from redis_server import Redis

GUESSES = 7
CONFIG = f"failed_attempts: {{per_address: {GUESSES}, per: 10s}}"
# A key of another program: no bearward token, so it can be guessed.
FOREIGN = "sk-a-key-of-another-program-0123456789"


@pytest.fixture(scope="module")
def redis():
    with Redis() as server:
        yield server


@pytest.fixture
def replicas(redis):
    redis.cli("FLUSHALL")
    with Stub() as stub, fleet(3, stub.port, redis.url, "max_concurrent: 9", config=CONFIG) as (replicas, key):
        keys = replicas[0].path / "keys.yaml"
        keys.write_text(f"{keys.read_text().rstrip()}\n  - {{id: key_foreign, name: foreign, permissions: [read], hash: {hash_of(FOREIGN)}}}\n")
        for replica in replicas:
            answer = replica.reload()
            assert answer["success"], answer
            wait_for("the replica reaches redis", lambda: any("server for shared limits is available" in line for line in replica.lines))
        yield replicas, key


def hash_of(secret):
    import hashlib

    return "sha256:" + hashlib.sha256(secret.encode()).hexdigest()


def ask(replica, secret):
    """Status and Retry-After of a request with this secret."""
    connection = http.client.HTTPConnection("127.0.0.1", replica.port)
    connection.request("GET", "/x", headers={"Authorization": f"Bearer {secret}"})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, answer.getheader("retry-after")


def test_guesses_are_counted_over_all_replicas(replicas):
    replicas, key = replicas
    answers = [ask(replicas[number % 3], f"sk-guess-{number}")[0] for number in range(GUESSES + 6)]
    assert answers == [401] * GUESSES + [429] * 6
    status, wait = ask(replicas[0], "sk-one-more")
    assert status == 429 and 0 < int(wait) <= 10
    # A right guess is refused by each of them; the holder of a bearward token is not.
    assert [ask(replica, FOREIGN)[0] for replica in replicas] == [429] * 3
    assert [ask(replica, key)[0] for replica in replicas] == [200] * 3


def test_a_replica_that_saw_no_guess_hears_of_an_address_that_used_them_up(replicas):
    replicas, _ = replicas
    assert ask(replicas[1], FOREIGN)[0] == 200
    for number in range(GUESSES):
        assert ask(replicas[0], f"sk-guess-{number}")[0] == 401
    wait_for("the others hear of it", lambda: ask(replicas[1], FOREIGN)[0] == 429)


def test_without_redis_each_replica_grants_its_part_of_the_guesses():
    with Redis() as own, Stub() as stub:
        with fleet(3, stub.port, own.url, "max_concurrent: 9", config=CONFIG) as (replicas, key):
            for replica in replicas:
                wait_for("all replicas are known", lambda: "true" in own.cli("EVAL", "return tostring(#redis.call('ZRANGE', '{bw:fleet}:replicas', 0, -1) == 3)", "0"))
            time_of_all = time.monotonic()
            wait_for("all replicas know of all", lambda: time.monotonic() - time_of_all > 1)
            own.kill()
            wait_for("all replicas have lost redis", lambda: all(any("is unavailable" in line for line in replica.lines) for replica in replicas))
            answers = [ask(replica, f"sk-guess-{number}")[0] for replica in replicas for number in range(GUESSES)]
            assert sorted(answers) == [401] * GUESSES + [429] * (2 * GUESSES)
            own.start()
            # What was guessed meanwhile is told: the address has used up its guesses.
            wait_for("redis knows", lambda: own.cli("--scan", "--pattern", "*:exhausted"))
            assert {ask(replica, "sk-new")[0] for replica in replicas} == {429}
