"""Usage and last uses of several replicas on a real Redis: kills, outages, and a server that loses its data."""

import json
import signal
import subprocess
import time
import urllib.request

import pytest

from fleet import Stub, key_id
from gateway import binary, wait_for
from redis_groups import Cluster
from redis_server import LEAST_ACL, REDIS_7, REDIS_8, VALKEY_9, Redis
from test_shared_budgets import ANSWER, COST, Spenders, ask, is_available, team


@pytest.fixture
def stub():
    with Stub(ANSWER) as server:
        yield server


@pytest.fixture
def redis():
    with Redis() as server:
        server.allow(LEAST_ACL)
        yield server


@pytest.fixture(params=[REDIS_7, VALKEY_9, REDIS_8], ids=["redis-7", "valkey-9", "redis-8"])
def any_redis(request):
    with Redis(program=request.param) as server:
        server.allow(LEAST_ACL)
        yield server


def command(gateway, *arguments):
    config = ["--config", str(gateway.path / "bearward.yaml")]
    return subprocess.run([binary(), *arguments, *config], capture_output=True, text=True, timeout=60)


def usage(gateway, by="key"):
    run = command(gateway, "usage", "--by", by, "--json")
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def requests(gateway):
    return sum(row["requests"] for row in usage(gateway))


def test_usage_of_all_replicas_counts_each_request_once(any_redis, stub, tmp_path):
    redis = any_redis
    states = [tmp_path / "first", tmp_path / "second", None]
    with team(stub, redis.shared, states=states) as (replicas, keys):
        with Spenders(replicas, keys):
            wait_for("requests are granted", lambda: len(stub.times) > 60)
            # Without the server, usage waits in each replica.
            redis.process.send_signal(signal.SIGSTOP)
            before = len(stub.times)
            wait_for("requests are granted without the server", lambda: len(stub.times) > before + 60)
            redis.process.send_signal(signal.SIGCONT)
            wait_for("the server is back", lambda: all(is_available(replica) for replica in replicas))
        wait_for("all is counted", lambda: requests(replicas[0]) == len(stub.times))
        [whole] = usage(replicas[2], "group,model")
        assert whole == {
            "group": "team", "model": "m", "requests": len(stub.times), "input_tokens": 0, "cached_tokens": 0,
            "output_tokens": 6 * len(stub.times), "estimated_tokens": 0,
        }
        assert len(usage(replicas[1])) == 3
        # The API of each replica has the same.
        for replica in replicas:
            with urllib.request.urlopen(f"http://127.0.0.1:{replica.admin_port}/api/v1/usage?by=group,model", timeout=10) as answer:
                assert json.load(answer)["data"] == {"usage": [whole]}
        # A replica that ends tells what is left, also without a state directory.
        for _ in range(5):
            assert ask(replicas[2].port, keys[2])[0] == 200
        replicas[2].process.send_signal(signal.SIGTERM)
        assert replicas[2].process.wait(timeout=30) == 0
        assert requests(replicas[0]) == len(stub.times)
        assert redis.refusals() == []


def test_what_a_killed_replica_could_not_tell_survives_in_its_state(redis, stub, tmp_path):
    with team(stub, redis.shared, states=[tmp_path / "first", tmp_path / "second"]) as (replicas, keys):
        for turn in range(3):
            redis.process.send_signal(signal.SIGSTOP)
            wait_for("the server is away", lambda: not is_available(replicas[0]))
            for _ in range(10):
                assert ask(replicas[0].port, keys[0])[0] == 200
            written = lambda: requests_in(tmp_path / "first") == 10 * (turn + 1)
            wait_for("usage is on disk", written)
            replicas[0].process.kill()
            replicas[0].process.wait()
            redis.process.send_signal(signal.SIGCONT)
            replicas[0].start()
            wait_for("the replica is back", lambda: is_available(replicas[0]))
            wait_for("all is counted", lambda: requests(replicas[1]) == len(stub.times))
        # Nothing is counted twice, however often it is told.
        assert len(redis.cli("KEYS", "*:told:*").split()) == 1, "a directory has one name"
        assert requests(replicas[1]) == len(stub.times) == 30


def requests_in(state):
    run = subprocess.run([binary(), "usage", "--state", str(state), "--json"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return sum(row["requests"] for row in json.loads(run.stdout))


def test_a_server_that_loses_its_data_is_told_again(redis, stub, tmp_path):
    with team(stub, redis.shared, states=[tmp_path / "first", None]) as (replicas, keys):
        for _ in range(10):
            assert {ask(replica.port, key)[0] for replica, key in zip(replicas, keys)} == {200}
        wait_for("all is counted", lambda: requests(replicas[0]) == 20)
        redis.kill()
        redis.start()
        redis.allow()
        wait_for("all is counted again", lambda: requests(replicas[0]) == 20)


def spent(redis):
    """What is used and what is reserved of the group's budget, by the server."""
    script = "return cjson.encode(cmsgpack.unpack(redis.call('HGET', KEYS[1], 'tokens/month')))"
    _, _, used, reserved, _ = json.loads(redis.cli("EVAL", script, "1", "bw:{group:team}:budgets"))
    return used, reserved


def test_a_settlement_without_an_answer_survives_a_kill(redis, stub, tmp_path):
    budget, journal = f"{{tokens: {1000 * COST}, every: month}}", tmp_path / "first" / "journal"
    with team(stub, redis.shared, budget, states=[tmp_path / "first", None], timeout="200ms") as (replicas, keys):
        stub.delay = 1.0
        with Spenders(replicas[:1], keys[:1], count=5) as spenders:
            wait_for("requests are in flight", lambda: stub.in_flight == 5)
            spenders.has_ended = True
            redis.process.send_signal(signal.SIGSTOP)
        # The answers have come, and the server knows of the reservations alone.
        wait_for("the settlements are on disk", lambda: journal.read_bytes().count(b'["settlement",') >= 5)
        replicas[0].process.kill()
        replicas[0].process.wait()
        redis.process.send_signal(signal.SIGCONT)
        replicas[0].start()
        wait_for("the replica is back", lambda: is_available(replicas[0]))
        granted = sum(status == 200 for _, status in spenders.seen)
        assert granted >= 5
        wait_for("all is settled", lambda: spent(redis) == (granted * COST, 0))
        # It is settled once, and not again at the next start.
        for _ in range(2):
            replicas[0].process.send_signal(signal.SIGTERM)
            replicas[0].process.wait(timeout=30)
            replicas[0].start()
            wait_for("the replica is back", lambda: is_available(replicas[0]))
        assert ask(replicas[0].port, keys[0])[0] == 200 and stub.delay
        wait_for("all is settled", lambda: spent(redis) == ((granted + 1) * COST, 0))


def test_last_uses_are_those_of_all_replicas(any_redis, stub, tmp_path):
    redis = any_redis
    with team(stub, redis.shared, states=[tmp_path / "first", None]) as (replicas, keys):
        run = command(replicas[0], "keys", "list", "--unused", "90d")
        assert run.returncode == 1 and "uses are known since" in run.stderr, run.stderr
        assert ask(replicas[1].port, keys[1])[0] == 200
        uses = lambda: redis.cli("ZRANGE", "{bw:usage}:last_used", "0", "-1", "WITHSCORES").split("\n")
        wait_for("the use is noted", lambda: len(uses()) == 2)
        key, at = uses()
        assert key == key_id(keys[1]) and abs(int(at) / 1e6 - time.time()) < 60
        # As if uses had been noted for a year, and the keys were older.
        year = int((time.time() - 365 * 86400) * 1e6)
        redis.cli("HSET", "{bw:usage}:known", "since", str(year))
        store = replicas[0].path / "keys.yaml"
        made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(year // 1_000_000))
        lines = [f"    created_at: {made}" if "created_at:" in line else line for line in store.read_text().split("\n")]
        store.write_text("\n".join(lines))
        run = command(replicas[0], "keys", "list", "--unused", "90d", "--json")
        assert run.returncode == 0, run.stderr
        assert [key["id"] for key in json.loads(run.stdout)] == [key_id(keys[0])]
        # A server that is away is no reason to call a key unused.
        redis.kill()
        run = command(replicas[0], "keys", "list", "--unused", "90d")
        assert run.returncode == 1 and str(redis.port) in run.stderr


def test_usage_is_spread_over_a_cluster(stub):
    with Cluster() as cluster, team(stub, cluster.wait().shared, count=2) as (replicas, keys):
        for _ in range(10):
            assert {ask(replica.port, key)[0] for replica, key in zip(replicas, keys)} == {200}
        wait_for("all is counted", lambda: requests(replicas[0]) == 20)
