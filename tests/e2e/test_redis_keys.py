"""Keys in a real Redis server: several replicas, edits at once, outages, hostile content, and the least rights."""

import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import statistics
import subprocess
import threading
import time
import urllib.request

import pytest
import trustme

from fault_proxy import FaultProxy
from fleet import Stub, key_id
from gateway import ROOT, Gateway, binary, free_port, wait_for
from redis_groups import Cluster
from redis_server import REDIS_7, REDIS_8, VALKEY_9, Redis, documented_rules

READ = ("--permissions", "read")
ROUTES = "routes: [{name: all, paths: ['/**'], permission: read}]\nworkers: 1\n"
ENTRIES = "{bw:keys}:entries"


@pytest.fixture(params=[REDIS_7, VALKEY_9, REDIS_8], ids=["redis-7", "valkey-9", "redis-8"])
def redis(request):
    with Redis(program=request.param) as server:
        yield server


@pytest.fixture(scope="module")
def stub():
    with Stub() as server:
        yield server


def keys(*command, url=None, check=True, environment=None):
    """Output of `bearward keys`; with `check=False`, the finished process."""
    command = [binary(), "keys", *command, *(["--keys", url] if url else [])]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **(environment or {})})
    assert not check or run.returncode == 0, run.stderr
    return run.stdout.strip() if check else run


def create(url, name, *arguments):
    return keys("create", "--name", name, *READ, *arguments, url=url)


@contextlib.contextmanager
def replicas(count, stub, url, more="", top=""):
    with contextlib.ExitStack() as stack:
        config = f"{ROUTES}{top}keys: {{path: {json.dumps(url)}{more}}}\n"
        yield [stack.enter_context(Gateway(stub.port, {}, config=config, admin=True)) for _ in range(count)]


def ask(replica, token):
    """Status and error code of a request with a key."""
    connection = http.client.HTTPConnection("127.0.0.1", replica.port, timeout=10)
    try:
        connection.request("GET", "/x", headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        body = json.load(answer)
        return answer.status, body.get("error", {}).get("code")
    finally:
        connection.close()


def are_all(fleet, token, status):
    return all(ask(replica, token)[0] == status for replica in fleet)


def admin(replica, method, path, body=None):
    """Status and JSON of a request to the admin listener."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{replica.admin_port}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": "Bearer the-admin-token", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def page(replica):
    with urllib.request.urlopen(f"http://127.0.0.1:{replica.admin_port}/", timeout=10) as answer:
        return answer.read().decode()


def readiness(replica):
    return admin(replica, "GET", "/readyz")


def is_stale(replica):
    return "stale_since" in readiness(replica)[1].get("keys", {})


def log(replica):
    return "".join(replica.lines)


def test_changes_by_commands_and_by_the_api_are_seen_by_all_replicas(redis, stub):
    first = create(redis.url, "first")
    with replicas(3, stub, redis.url) as fleet:
        assert are_all(fleet, first, 200)
        second = create(redis.url, "second")
        wait_for("a created key is known", lambda: are_all(fleet, second, 200))
        renewed = keys("rotate", "second", "--grace", "0", url=redis.url)
        wait_for("an old secret is refused", lambda: are_all(fleet, second, 401))
        assert are_all(fleet, renewed, 200)
        status, answer = admin(fleet[0], "POST", "/api/v1/keys", {"name": "third", "permissions": ["read"]})
        assert (status, answer["data"]["is_live"]) == (201, True), answer
        third = answer["data"]["secret"]
        assert ask(fleet[0], third)[0] == 200, "the replica that made it has it at once"
        wait_for("a key made by the API is known", lambda: are_all(fleet, third, 200))
        status, answer = admin(fleet[1], "POST", f"/api/v1/keys/{key_id(third)}/rotate", {"grace": "0s"})
        assert status == 200, answer
        wait_for("a key rotated by the API is known", lambda: are_all(fleet, answer["data"]["secret"], 200))
        status, answer = admin(fleet[2], "POST", f"/api/v1/keys/{key_id(renewed)}/revoke")
        assert (status, answer["data"]["is_live"]) == (200, True), answer
        wait_for("a revoked key is refused", lambda: are_all(fleet, renewed, 401))
        keys("delete", "first", url=redis.url)
        wait_for("a deleted key is refused", lambda: are_all(fleet, first, 401))
        server = fleet[0].admin_status()["store"]["server"]
        assert (server["is_reachable"], server["replicas"]) == (True, 3), server
        scrape = urllib.request.urlopen(f"http://127.0.0.1:{fleet[0].admin_port}/metrics", timeout=10).read().decode()
        assert "bearward_key_server_reachable 1" in scrape and "bearward_key_server_replicas 3" in scrape, scrape
        generation = redis.cli("HGET", "{bw:keys}:state", "generation")
        wait_for("the page shows the generation", lambda: f"generation {generation}; 3 replicas follow it" in page(fleet[0]))
        assert len(json.loads(keys("list", "--json", url=redis.url))) == 2


def test_a_revocation_is_refused_by_all_within_half_a_second_mostly_and_two_seconds_always(redis, stub):
    tokens = [create(redis.url, f"key-{number}") for number in range(21)]
    with replicas(3, stub, redis.url) as fleet:
        times = []
        for number, token in enumerate(tokens[:-1]):
            assert are_all(fleet, token, 200)
            keys("revoke", f"key-{number}", url=redis.url)
            begun = time.monotonic()
            wait_for("all replicas refuse it", lambda: are_all(fleet, token, 401), seconds=5)
            times.append(time.monotonic() - begun)
        print("revocations:", statistics.median(times), max(times))
        assert statistics.median(times) < 0.5 and max(times) < 2, times
        assert are_all(fleet, tokens[-1], 200)


def test_edits_at_once_lose_nothing(redis, stub):
    create(redis.url, "first")
    with replicas(1, stub, redis.url) as [replica]:
        failures = []

        def make(process):
            for number in range(100):
                run = keys("create", "--name", f"{process}-{number}", *READ, url=redis.url, check=False)
                if run.returncode:
                    failures.append(run.stderr)

        threads = [threading.Thread(target=make, args=(process,)) for process in range(10)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert not failures, failures[:3]
        assert redis.cli("HLEN", ENTRIES) == "1001"
        assert len({key["name"] for key in json.loads(keys("list", "--json", url=redis.url))}) == 1001
        wait_for("the replica has them all", lambda: replica.admin_status()["keys"]["keys"] == 1001)
        # Ten processes make a key of the same name: one of them succeeds.
        outcomes = []
        same = lambda: outcomes.append(keys("create", "--name", "one", *READ, url=redis.url, check=False).returncode)
        threads = [threading.Thread(target=same) for _ in range(10)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert sorted(outcomes) == [0] + [1] * 9


def test_a_flushed_server_is_no_store_and_known_keys_stay(redis, stub):
    token = create(redis.url, "reader")
    with replicas(2, stub, redis.url) as fleet:
        assert are_all(fleet, token, 200)
        backup = fleet[0].path / "backup.jsonl"
        keys("copy", "--from", redis.url, "--to", str(backup))
        redis.cli("FLUSHALL")
        wait_for("it is told", lambda: all(is_stale(replica) for replica in fleet))
        assert "has lost its data" in log(fleet[0]) and readiness(fleet[0])[0] == 200
        assert are_all(fleet, token, 200)
        # Nobody begins a new store by mistake, which would take all keys out of service.
        assert admin(fleet[0], "POST", "/api/v1/keys", {"permissions": ["read"]})[0] == 409
        wait_for("the replicas are registered again", lambda: redis.cli("HLEN", "{bw:keys}:replicas") == "2")
        run = keys("create", *READ, url=redis.url, check=False)
        assert run.returncode == 1 and "still in service" in run.stderr
        assert are_all(fleet, token, 200)
        keys("copy", "--from", str(backup), "--to", redis.url)
        wait_for("the store is back", lambda: not any(is_stale(replica) for replica in fleet))
        assert are_all(fleet, token, 200)


def test_an_empty_store_lets_nobody_in(redis, stub):
    token = create(redis.url, "reader")
    with replicas(1, stub, redis.url) as [replica]:
        assert ask(replica, token)[0] == 200
        redis.cli("DEL", ENTRIES)
        wait_for("nobody is let in", lambda: ask(replica, token) == (401, "INVALID_API_KEY"))
    with replicas(1, stub, redis.url) as [replica]:
        assert ask(replica, token) == (401, "INVALID_API_KEY")


def test_known_keys_go_on_without_the_server_until_max_stale(redis, stub):
    token = create(redis.url, "reader")
    ends = keys("create", "--name", "ends", *READ, "--expires-in", "10s", url=redis.url)
    with replicas(1, stub, redis.url) as [lasting], replicas(1, stub, redis.url, ", max_stale: 4s") as [strict]:
        assert are_all([lasting, strict], token, 200) and ask(lasting, ends)[0] == 200
        backup = str(lasting.path / "backup.jsonl")
        keys("copy", "--from", redis.url, "--to", backup)
        redis.kill()
        killed = time.monotonic()
        wait_for("it is told", lambda: is_stale(lasting) and is_stale(strict))
        assert time.monotonic() - killed < 2.5
        assert ask(strict, token)[0] == 200, "max_stale has not passed"
        wait_for("max_stale ends it", lambda: ask(strict, token) == (503, "KEY_STORE_UNAVAILABLE"), seconds=10)
        assert time.monotonic() - killed > 3
        assert readiness(strict)[0] == 503
        assert ask(lasting, token)[0] == 200 and readiness(lasting)[0] == 200
        wait_for("a key expires all the same", lambda: ask(lasting, ends) == (401, "EXPIRED_API_KEY"))
        scrape = urllib.request.urlopen(f"http://127.0.0.1:{lasting.admin_port}/metrics", timeout=10).read().decode()
        stale = re.search(r'bearward_reload_stale_seconds\{part="keys"\} ([\d.]+)', scrape)
        assert float(stale.group(1)) >= 1, scrape
        # The server has lost its data. Its store is brought back before a key is added.
        redis.start()
        keys("copy", "--from", backup, "--to", redis.url)
        fresh = create(redis.url, "fresh")
        wait_for("both follow the server again", lambda: are_all([lasting, strict], fresh, 200))
        assert are_all([lasting, strict], token, 200)


def test_a_start_without_the_server_waits_for_it(redis, stub):
    redis.kill()
    with replicas(1, stub, redis.url) as [replica]:
        assert readiness(replica)[0] == 503
        assert ask(replica, "bwk_5ZMrTxJTMM_ZObrkzLUIJTKX9wZKz3UaS6rLIKgsg7U2DhHrq") == (503, "KEY_STORE_UNAVAILABLE")
        assert ask(replica, "anything") == (503, "KEY_STORE_UNAVAILABLE")
        redis.start()
        wait_for("the empty server is told of", lambda: "has lost its data" in log(replica))
        assert readiness(replica)[0] == 503
        token = create(redis.url, "reader")
        wait_for("it is ready", lambda: readiness(replica)[0] == 200)
        assert ask(replica, token)[0] == 200


def test_a_server_that_does_not_answer_is_noticed_within_two_seconds(redis, stub):
    token = create(redis.url, "reader")
    with replicas(1, stub, redis.url) as [replica]:
        redis.process.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            wait_for("it is told", lambda: is_stale(replica))
            assert time.monotonic() - stopped < 2.5
            assert ask(replica, token)[0] == 200
        finally:
            redis.process.send_signal(signal.SIGCONT)
        wait_for("it is over", lambda: not is_stale(replica))
        keys("revoke", "reader", url=redis.url)
        wait_for("it is refused", lambda: ask(replica, token)[0] == 401, seconds=2)


def test_changes_by_other_programs_count(redis, stub):
    tokens = {name: create(redis.url, name) for name in ("a", "b", "c")}
    entry = lambda name: redis.cli("HGET", ENTRIES, key_id(tokens[name]))
    with replicas(2, stub, redis.url) as fleet:
        wait_for("both replicas follow the store", lambda: redis.cli("HLEN", "{bw:keys}:replicas") == "2")
        off = {**json.loads(entry("a")), "disabled": True}
        redis.cli("HSET", ENTRIES, off["id"], json.dumps(off))
        wait_for("a changed entry counts", lambda: are_all(fleet, tokens["a"], 401), seconds=4)
        redis.cli("HDEL", ENTRIES, key_id(tokens["b"]))
        wait_for("a removed entry counts", lambda: are_all(fleet, tokens["b"], 401), seconds=4)
        redis.cli("HSET", ENTRIES, off["id"], json.dumps({**off, "disabled": False}))
        wait_for("it counts again", lambda: are_all(fleet, tokens["a"], 200), seconds=4)
        # The name of an entry that another program has removed is free.
        create(redis.url, "b")
        redis.cli("HINCRBY", "{bw:keys}:state", "generation", "-2")
        keys("revoke", "c", url=redis.url)
        wait_for("a change counts after a generation that went back", lambda: are_all(fleet, tokens["c"], 401), seconds=4)


def test_hostile_content_costs_a_message_and_no_more(redis, stub):
    tokens = {name: create(redis.url, name) for name in ("a", "b")}
    ids = {name: key_id(token) for name, token in tokens.items()}
    good = json.loads(redis.cli("HGET", ENTRIES, ids["a"]))
    with replicas(1, stub, redis.url) as [replica]:

        def reads(what):
            """Waits until the replica has read a version that a marker key shows."""
            marker = create(redis.url, f"marker-{len(what)}-{time.monotonic_ns()}")
            wait_for(what, lambda: ask(replica, marker)[0] == 200, seconds=15)
            assert are_all([replica], tokens["a"], 200) and are_all([replica], tokens["b"], 200), what

        hostile = [
            "garbage", "", "[]", "\u0000\u0001", '{"id":"' + "x" * 100_000, json.dumps({**good, "id": "key_other"}),
            json.dumps({**good, "unknown": 1}), json.dumps({**good, "permissions": []}), "[" * 50_000, '{"id":1}',
            json.dumps({**good, "expires_at": "2026-01-01T00:00:00"}), json.dumps({**good, "name": "b"}),
        ]
        for text in hostile:
            subprocess.run(["redis-cli", "-p", str(redis.port), "-x", "HSET", ENTRIES, ids["a"]], input=text.encode(), check=True, capture_output=True)
            reads(text[:40])
        redis.cli("HSET", ENTRIES, ids["a"], json.dumps(good))
        redis.cli("HSET", ENTRIES, "no id at all SECRET", "x" * 1000)
        redis.cli("HSET", ENTRIES, "key_z" * 1000, json.dumps(good))
        reads("ids that are none")
        assert good["hash"] not in log(replica) and "SECRET" not in log(replica)
        assert replica.admin_status()["reloads"][1]["faults"]
        redis.cli("HDEL", ENTRIES, "no id at all SECRET", "key_z" * 1000)
        for name in ("state", "changes", "replicas", "entries"):
            name = f"{{bw:keys}}:{name}"
            redis.cli("EVAL", "redis.call('RENAME', KEYS[1], KEYS[2]); redis.call('SET', KEYS[1], 'text')", "2", name, "saved")
            if name in (ENTRIES, "{bw:keys}:state"):
                wait_for("a wrong type is told", lambda: is_stale(replica), seconds=10)
            assert are_all([replica], tokens["a"], 200)
            redis.cli("RENAME", "saved", name)
            wait_for("it is over", lambda: not is_stale(replica), seconds=10)
        for generation in ("-5", "1e300", "x" * 10_000, "99999999999999999999"):
            before = redis.cli("HGET", "{bw:keys}:state", "generation")
            redis.cli("HSET", "{bw:keys}:state", "generation", generation)
            wait_for("a bad generation is told", lambda: is_stale(replica), seconds=10)
            assert are_all([replica], tokens["a"], 200)
            redis.cli("HSET", "{bw:keys}:state", "generation", before)
            wait_for("it is over", lambda: not is_stale(replica), seconds=10)
        reads("all is well")
        assert max(map(len, replica.lines)) < 5000


@pytest.mark.parametrize(
    "begins",
    [b"$536870912\r\n", b"*1000000000\r\n", b">1000000\r\n", b"*1\r\n" * 100_000, b"HTTP/1.1 400 Bad Request\r\n"],
    ids=["text", "list", "push", "nested", "http"],
)
def test_a_server_that_sends_endless_garbage_fills_no_memory(stub, begins):
    with socket.create_server(("127.0.0.1", 0)) as server:
        sent = []

        def serve(side):
            with side, contextlib.suppress(OSError):
                side.recv(1000)
                side.sendall(begins)
                while True:
                    side.sendall(b"x" * 65536)

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    side = server.accept()[0]
                    sent.append(side)
                    threading.Thread(target=serve, args=(side,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        with replicas(1, stub, f"redis://127.0.0.1:{server.getsockname()[1]}") as [replica]:
            most = [0]

            def has_tried_often():
                most[0] = max(most[0], replica.rss_kib())
                return len(sent) >= 6

            wait_for("several connections", has_tried_often)
            assert most[0] < 300_000, most
            assert readiness(replica)[0] == 503 and ask(replica, "sk-x") == (503, "KEY_STORE_UNAVAILABLE")
            assert max(map(len, replica.lines)) < 5000


def test_endless_changes_delay_no_revocation(redis, stub):
    token = create(redis.url, "reader")
    other = create(redis.url, "other")
    with replicas(1, stub, redis.url) as [replica]:
        entry = redis.cli("HGET", ENTRIES, key_id(other))
        noise = subprocess.Popen(
            ["redis-benchmark", "-p", str(redis.port), "-q", "-n", "100000000", "-c", "2", "HSET", ENTRIES, key_id(other), entry],
            stdout=subprocess.DEVNULL,
        )
        try:
            wait_for("noise", lambda: int(re.search(r"total_commands_processed:(\d+)", redis.cli("INFO", "stats")).group(1)) > 20_000)
            before = replica.rss_kib()
            assert ask(replica, token)[0] == 200
            keys("revoke", "reader", url=redis.url)
            wait_for("it is refused", lambda: ask(replica, token)[0] == 401, seconds=2)
            assert ask(replica, other)[0] == 200
            assert replica.rss_kib() < before + 50_000
        finally:
            noise.kill()
            noise.wait()


def shown(path):
    """All keys of a store, by id, without what depends on the time."""
    listed = json.loads(keys("list", "--json", url=str(path)))
    return {key["id"]: {name: value for name, value in key.items() if name != "age_seconds"} for key in listed}


def test_stores_are_copied_in_all_directions(redis, stub, tmp_path):
    first = tmp_path / "keys.yaml"
    create(first, "plain")
    create(first, "full", "--rate", "600/1m", "--expires-in", "90d", "--allow-from", "10.0.0.0/8", "--metadata", "team=é \"x\"")
    keys("rotate", "full", url=str(first))
    keys("revoke", "plain", url=str(first))
    expected = shown(first)
    directory = tmp_path / "directory"
    directory.mkdir()
    steps = [first, redis.url, tmp_path / "keys.jsonl", redis.url + "/1", tmp_path / "again.yaml", directory, redis.url + "/2"]
    for source, target in zip(steps, steps[1:]):
        keys("copy", "--from", str(source), "--to", str(target))
        assert shown(target) == expected, target
        again = keys("copy", "--from", str(first), "--to", str(target), check=False)
        assert again.returncode == 1 and shown(target) == expected, "nothing is replaced without a flag"
    create(first, "more")
    token = create(redis.url, "goes")
    with replicas(1, stub, redis.url) as [replica]:
        assert ask(replica, token)[0] == 200
        for target in (redis.url, tmp_path / "keys.jsonl", tmp_path / "again.yaml"):
            keys("copy", "--from", str(first), "--to", str(target), "--overwrite")
            assert shown(target) == shown(first) and len(shown(first)) == 3
        wait_for("the replica has the new store", lambda: ask(replica, token)[0] == 401)


def test_wait_returns_after_the_last_replica_has_it(redis, stub):
    tokens = [create(redis.url, f"key-{number}") for number in range(12)]
    with replicas(3, stub, redis.url) as fleet:
        for number, token in enumerate(tokens[:-2]):
            assert are_all(fleet, token, 200)
            run = keys("revoke", f"key-{number}", "--wait", url=redis.url, check=False)
            assert are_all(fleet, token, 401), "it is refused by all when the command returns"
            assert run.returncode == 0 and "applied by 3 replicas" in run.stderr, run.stderr
        fleet[2].process.send_signal(signal.SIGSTOP)
        try:
            run = keys("revoke", "key-10", "--wait", "--wait-timeout", "500ms", url=redis.url, check=False)
            assert run.returncode == 1 and "not applied within 500ms" in run.stderr, run.stderr
            # A replica that has lost the server has not confirmed, although its registration ends.
            run = keys("revoke", "key-10", "--wait", url=redis.url, check=False)
            assert run.returncode == 0 or "not confirmed" in run.stderr, run.stderr
        finally:
            fleet[2].process.send_signal(signal.SIGCONT)
        fleet[1].process.send_signal(signal.SIGTERM)
        fleet[1].process.wait(timeout=30)
        wait_for("a replica that ends takes its registration out", lambda: redis.cli("HLEN", "{bw:keys}:replicas") == "2")
    assert keys("revoke", "key-11", "--wait", url="/dev/null", check=False).returncode != 0


def test_a_replica_is_waited_for_from_its_start(redis, stub):
    """The way to the server is slow, so the first heartbeat comes well after the start."""
    token = create(redis.url, "reader")
    with FaultProxy(redis.port) as proxy:
        proxy.become("delay", 0.1)
        with replicas(1, stub, f"redis://127.0.0.1:{proxy.port}") as [replica]:
            assert ask(replica, token)[0] == 200
            keys("revoke", "reader", "--wait", url=redis.url)
            assert ask(replica, token)[0] == 401


def test_the_documented_user_is_enough_and_a_password_file_is_read_anew(redis, stub, tmp_path):
    redis.cli("ACL", "SETUSER", "bearward", "on", ">secret", *documented_rules("keys.md"))
    url = f"redis://bearward@127.0.0.1:{redis.port}"
    secret = {"BEARWARD_REDIS_PASSWORD": "secret"}
    token = keys("create", "--name", "reader", *READ, url=url, environment=secret)
    password = tmp_path / "password"
    password.write_text("secret\n")
    with replicas(2, stub, url, f", redis: {{password: {{file: {password}}}}}") as fleet:
        assert are_all(fleet, token, 200)
        run = subprocess.run([binary(), "check", "--config", str(fleet[0].path / "bearward.yaml")], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        config = str(fleet[0].path / "bearward.yaml")
        keys("rotate", "reader", "--config", config)
        keys("create", "--name", "other", *READ, "--config", config)
        keys("delete", "other", "--config", config)
        keys("copy", "--from", url, "--to", str(tmp_path / "k.jsonl"), environment=secret)
        keys("copy", "--from", str(tmp_path / "k.jsonl"), "--to", url, "--overwrite", environment=secret)
        wait_for("the replicas follow", lambda: are_all(fleet, token, 200) and not any(map(is_stale, fleet)))
        # A new password, and connections that end: the file is read again.
        password.write_text("renewed\n")
        redis.cli("ACL", "SETUSER", "bearward", "resetpass", ">renewed")
        redis.cli("CLIENT", "KILL", "USER", "bearward")
        run = keys("revoke", "reader", "--wait", "--config", config, check=False)
        assert run.returncode == 0, run.stderr
        wait_for("it is refused", lambda: are_all(fleet, token, 401))
        denied = redis.cli("ACL", "LOG")
        assert "bearward" not in denied, denied
    # Each command is needed: the check names the one that is missing.
    commands = [rule[1:] for rule in documented_rules("keys.md") if rule.startswith("+") and "|" not in rule]
    for command in sorted({*commands} - {"eval", "evalsha", "hello", "select", "auth"}):
        redis.cli("ACL", "SETUSER", "bearward", f"-{command}")
        run = check(url, "renewed", tmp_path)
        assert run.returncode == 78 and command in run.stderr, (command, run.stderr)
        redis.cli("ACL", "SETUSER", "bearward", f"+{command}")


def check(url, password, directory):
    """`bearward check` of a configuration with a store in a Redis server."""
    config = directory / "check.yaml"
    access = ", redis: {password: {env: REDIS_PASSWORD}}" if password else ""
    config.write_text(
        f"listeners: [{{address: 127.0.0.1:0}}]\nupstreams: [{{name: m, endpoints: [http://127.0.0.1:1]}}]\nkeys: {{path: {url}{access}}}\nadmin: off\n"
    )
    environment = {**os.environ, "REDIS_PASSWORD": password or ""}
    return subprocess.run([binary(), "check", "--config", str(config)], capture_output=True, text=True, env=environment, timeout=30)


def test_a_check_says_what_is_missing(redis, tmp_path):
    run = check(redis.url, None, tmp_path)
    assert run.returncode == 78 and "no key store" in run.stderr, run.stderr
    create(redis.url, "reader")
    run = check(redis.url, None, tmp_path)
    assert run.returncode == 0, run.stderr
    redis.cli("ACL", "SETUSER", "bearward", "on", ">secret", *documented_rules("keys.md"))
    url = f"redis://bearward@127.0.0.1:{redis.port}"
    run = check(url, "wrong", tmp_path)
    assert run.returncode == 78 and "password" in run.stderr and "wrong" not in run.stderr, run.stderr
    run = check(url, None, tmp_path)
    assert run.returncode == 78, "a user without a password is not the default user"
    redis.cli("ACL", "SETUSER", "bearward", "-client|tracking")
    run = check(url, "secret", tmp_path)
    assert run.returncode == 78 and "client|tracking" in run.stderr, run.stderr
    redis.kill()
    run = check(redis.url, None, tmp_path)
    assert run.returncode == 78 and "can't be reached" in run.stderr, run.stderr


def test_tls_with_a_client_certificate(stub, tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for name in ("server", "client"):
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        certificate.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
        certificate.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))
    port = free_port()
    options = ["--tls-port", str(port), "--tls-ca-cert-file", str(tmp_path / "ca.pem"), "--tls-auth-clients", "yes"]
    options += ["--tls-cert-file", str(tmp_path / "server.pem"), "--tls-key-file", str(tmp_path / "server.key")]
    url = f"rediss://localhost:{port}"
    flags = ["--redis-ca", str(tmp_path / "ca.pem"), "--redis-cert", str(tmp_path / "client.pem"), "--redis-key", str(tmp_path / "client.key")]
    tls = f"{{ca: {tmp_path / 'ca.pem'}, client_certificate: {tmp_path / 'client.pem'}, client_key: {tmp_path / 'client.key'}}}"
    with Redis(*options):
        token = keys("create", "--name", "reader", *READ, *flags, url=url)
        assert keys("list", *flags[:2], url=url, check=False).returncode != 0, "the server wants a client certificate"
        assert keys("list", url=url, check=False).returncode != 0, "the authority is unknown"
        # With `shared` on the same server, its access holds for the keys as well.
        shared = f"shared: {{redis: {url}, tls: {tls}}}\n"
        with replicas(1, stub, url, f", redis: {{tls: {tls}}}") as [own], replicas(1, stub, url, top=shared) as [same]:
            assert are_all([own, same], token, 200)
            keys("revoke", "reader", "--wait", *flags, url=url)
            assert are_all([own, same], token, 401)


def test_replicas_give_an_unknown_credential_the_same_id(redis, stub):
    create(redis.url, "reader")
    body = lambda replica: refused_id(replica, "sk-unknown")
    with replicas(2, stub, redis.url) as fleet:
        ids = {body(replica) for replica in fleet}
        assert len(ids) == 1, ids
    with replicas(1, stub, redis.url) as [again]:
        assert body(again) in ids


def refused_id(replica, token):
    """The id of a credential in a refusal."""
    connection = http.client.HTTPConnection("127.0.0.1", replica.port, timeout=10)
    connection.request("GET", "/x", headers={"Authorization": f"Bearer {token}"})
    details = json.load(connection.getresponse())["error"]["details"]
    connection.close()
    return details["key_id"]


def test_edits_that_a_failover_lost_are_not_mistaken_for_later_ones(redis, stub):
    """The server goes back to an earlier state, and an edit is made instead of the lost one."""
    lost, later = create(redis.url, "lost"), create(redis.url, "later")
    redis.cli("SAVE")
    with replicas(1, stub, redis.url) as [replica]:
        keys("revoke", "lost", "--wait", url=redis.url)
        assert ask(replica, lost)[0] == 401
        redis.kill()
        redis.start()
        keys("revoke", "later", url=redis.url)
        wait_for("the later edit counts", lambda: ask(replica, later)[0] == 401, seconds=2)
        wait_for("the lost edit is seen to be lost", lambda: ask(replica, lost)[0] == 200, seconds=10)
        keys("revoke", "lost", "--wait", url=redis.url)
        assert ask(replica, lost)[0] == 401


def test_prefixes_keep_stores_apart(redis, stub):
    ours = create(redis.url, "reader")
    theirs = keys("create", "--name", "reader", *READ, "--redis-prefix", "other", url=redis.url)
    shared = f"shared: {{redis: {redis.url}, prefix: other}}\n"
    with replicas(1, stub, redis.url) as [one], replicas(1, stub, redis.url, top=shared) as [two]:
        assert [ask(one, ours)[0], ask(one, theirs)[0], ask(two, ours)[0], ask(two, theirs)[0]] == [200, 401, 401, 200]


def test_a_reload_moves_to_a_server_and_back(redis, stub):
    token = create(redis.url, "reader")
    with Gateway(stub.port, {"file": list(READ)}, config=ROUTES, admin=True) as replica:
        config = replica.path / "bearward.yaml"
        text = config.read_text()
        of_file = f"keys: {{path: {replica.path / 'keys.yaml'}}}"
        assert of_file in text and ask(replica, token)[0] == 401
        config.write_text(text.replace(of_file, "keys: {path: redis://127.0.0.1:1}"))
        assert not replica.reload()["success"]
        assert ask(replica, replica.tokens["file"])[0] == 200, "a server that is not there is not taken"
        config.write_text(text.replace(of_file, f"keys: {{path: {redis.url}, max_stale: 2s}}"))
        assert replica.reload()["success"], replica.lines
        assert ask(replica, token)[0] == 200 and ask(replica, replica.tokens["file"])[0] == 401
        keys("revoke", "reader", "--wait", url=redis.url)
        assert ask(replica, token)[0] == 401
        redis.kill()
        wait_for("max_stale ends it", lambda: ask(replica, token) == (503, "KEY_STORE_UNAVAILABLE"))
        config.write_text(text)
        assert replica.reload()["success"], replica.lines
        assert ask(replica, replica.tokens["file"])[0] == 200


def test_a_cluster_is_followed_to_the_node_with_the_store(stub):
    # The usual port of the cluster's own protocol, 10,000 more than the other, may be none.
    bus = [free_port(), free_port()]
    nodes = [["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", str(port)] for port in bus]
    with Redis(*nodes[0]) as one, Redis(*nodes[1]) as two:
        slot = int(one.cli("CLUSTER", "KEYSLOT", ENTRIES))
        one.cli("CLUSTER", "ADDSLOTSRANGE", "0", str(slot - 1))
        two.cli("CLUSTER", "ADDSLOTSRANGE", str(slot), "16383")
        one.cli("CLUSTER", "MEET", "127.0.0.1", str(two.port), str(bus[1]))
        wait_for("the cluster forms", lambda: "cluster_state:ok" in one.cli("CLUSTER", "INFO") and "cluster_state:ok" in two.cli("CLUSTER", "INFO"))
        # The first node does not have the store's slot.
        urls = f"{one.url},{two.url}"
        token = create(urls, "reader")
        assert two.cli("HLEN", ENTRIES) == "1"
        with replicas(2, stub, [one.url, two.url]) as fleet:
            assert are_all(fleet, token, 200)
            keys("revoke", "reader", "--wait", url=urls)
            assert are_all(fleet, token, 401)


@pytest.mark.parametrize("program", [REDIS_7, VALKEY_9, REDIS_8], ids=["redis-7", "valkey-9", "redis-8"])
def test_a_failover_in_a_cluster_is_followed(stub, program):
    with Cluster(program=program) as cluster:
        cluster.wait()
        urls = [f"redis://127.0.0.1:{node.port}" for node in cluster.nodes]
        token, other = (create(",".join(urls), name) for name in ("reader", "other"))
        index = cluster.index_of(ENTRIES)
        entries = lambda node: node.cli("CLUSTER", "COUNTKEYSINSLOT", node.cli("CLUSTER", "KEYSLOT", ENTRIES))
        wait_for("the store is copied", lambda: entries(cluster.nodes[index]) == entries(cluster.nodes[3 + index]))
        with replicas(2, stub, urls) as fleet:
            assert are_all(fleet, token, 200)
            cluster.fail_over(index)
            assert are_all(fleet, token, 200)
            wait_for("a revocation is written", lambda: keys("revoke", "reader", url=",".join(urls), check=False).returncode == 0)
            written = time.monotonic()
            wait_for("it is refused", lambda: are_all(fleet, token, 401))
            assert time.monotonic() - written < 2
            assert are_all(fleet, other, 200)


def test_a_failover_by_a_sentinel_is_followed(stub, tmp_path):
    with Redis() as master, Redis("--replicaof", f"127.0.0.1 {master.port}") as follower:
        port = free_port()
        config = tmp_path / "sentinel.conf"
        config.write_text(
            f"port {port}\nsentinel monitor mymaster 127.0.0.1 {master.port} 1\nsentinel down-after-milliseconds mymaster 500\n"
            "sentinel failover-timeout mymaster 3000\n"
        )
        sentinel = subprocess.Popen(["redis-server", str(config), "--sentinel"], stdout=subprocess.DEVNULL)
        try:
            ask_sentinel = lambda *command: subprocess.run(["redis-cli", "-p", str(port), *command], capture_output=True, text=True).stdout
            wait_for("the sentinel knows both", lambda: "num-slaves\n1" in ask_sentinel("SENTINEL", "MASTER", "mymaster"))
            url = f"redis+sentinel://127.0.0.1:{port}/mymaster"
            token = create(url, "reader")
            wait_for("the entry is copied", lambda: follower.cli("HLEN", ENTRIES) == "1")
            with replicas(2, stub, url) as fleet:
                assert are_all(fleet, token, 200)
                master.kill()
                wait_for("the follower is promoted", lambda: str(follower.port) in ask_sentinel("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"))
                assert are_all(fleet, token, 200)
                wait_for("a revocation is written", lambda: keys("revoke", "reader", url=url, check=False).returncode == 0)
                written = time.monotonic()
                wait_for("it is refused", lambda: are_all(fleet, token, 401))
                assert time.monotonic() - written < 2
        finally:
            sentinel.kill()
            sentinel.wait()
