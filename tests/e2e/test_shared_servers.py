"""Shared limits on each kind of server, and with faults of servers and of the way to them.

The cases wait more than they work, so a few of them run at the same time.
"""

import concurrent.futures
import contextlib
import functools
import json
import re
import socket
import time

import pytest

import hostile_redis
from fault_proxy import FaultProxy
from fleet import Stub, excess, fleet, key_id
from gateway import Gateway, wait_for
from hostile_redis import HostileRedis
from redis_groups import Cluster, SentinelGroup
from redis_server import LEAST_ACL, REDIS_8, VALKEY_9, Redis, SecureRedis
from steady_load import SteadyLoad

# What the delays of requests on their way to the stub may add, in requests.
JITTER = 3

# `shared.timeout` is 50 ms, and no request takes longer than 60 ms; in seconds.
LONGEST_REQUEST = 0.06

# A request that takes as long has waited for the whole timeout.
WITHOUT_ANSWER = 0.045

CASES_AT_ONCE = 3

AVAILABLE = "the server for shared limits is available"


def cases(function, *arguments):
    """Parameters of a test: calls of a function."""
    name = function.__name__.removeprefix("check_").replace("_", " ")
    calls = [pytest.param(functools.partial(function, *of), id=" ".join(of) or name) for of in arguments]
    return pytest.mark.parametrize("case", calls)


@pytest.fixture(scope="module")
def outcomes(request):
    """The outcomes of the selected tests of this file, which are running."""
    tests = [item for item in request.session.items if item.module is request.module]
    with concurrent.futures.ThreadPoolExecutor(CASES_AT_ONCE) as pool:
        yield {test.callspec.params["case"]: pool.submit(test.callspec.params["case"]) for test in tests}


def are_available(replicas):
    return all(AVAILABLE in [message for _, message, _ in messages(replica)] for replica in replicas)


def messages(replica):
    """Times, messages and troubles of the log about the server."""
    events = [json.loads(line) for line in replica.lines if "shared" in line]
    return [(event["timestamp"][17:23], event["message"], event.get("trouble", "")) for event in events]


def assert_quick(seen, load):
    """Asserts that requests took no longer than they may. A few had to wait for this machine."""
    limit = LONGEST_REQUEST + max(0.04, 2 * load.lag)
    late = sorted(one.seconds for one in seen if one.seconds > limit)
    assert len(late) <= 2 + 0.02 * len(seen), f"{len(late)} of {len(seen)} took more than {limit} s: {late}"
    assert not late or late[-1] < 1, late


def assert_few_messages(replica, most):
    found = messages(replica)
    assert len(found) <= most, f"{len(found)} messages, as {found[-4:]}"


def asks_without_answer(load, since):
    """Says how many requests of each replica waited for the whole timeout."""
    late = [seen for seen in load.seen if seen.sent >= since]
    counts = [
        f"{sum(one.seconds > WITHOUT_ANSWER for one in late if one.replica == index)} of {sum(one.replica == index for one in late)}"
        for index in range(len(load.ports))
    ]
    return f"requests of each replica that had no answer in time: {', '.join(counts)}"


# One limit on each kind of server.


def with_user(program):
    server = Redis(program=program)
    server.allow()
    return server


SERVERS = {
    "Redis 7 with TLS": SecureRedis,
    "Valkey 9": functools.partial(with_user, VALKEY_9),
    "Redis 8": functools.partial(with_user, REDIS_8),
    "Sentinel": SentinelGroup,
    "cluster of Redis 7": Cluster,
    "cluster of Valkey 9": functools.partial(Cluster, program=VALKEY_9),
}


def check_limits(name):
    limits = "rate_limits: [{requests: 3000, per: 1m, burst: 25}]\n    max_concurrent: 5"
    with SERVERS[name]() as server, Stub() as stub:
        server.wait()
        # With a long timeout, a busy machine keeps no replica from an answer in time.
        with fleet(3, stub.port, server.shared, limits, ", timeout: 2s") as (replicas, key):
            wait_for("all replicas reach the server", lambda: are_available(replicas))
            ports = [replica.port for replica in replicas]
            with SteadyLoad(ports, key, 150) as load:
                load.go_on(2.5)
            assert load.statuses() == {200, 429}
            assert excess(stub.times, 50, 25) < JITTER
            assert len(stub.times) >= 0.95 * (25 + 50 * 2.4) - 1, len(stub.times)
            # Requests in flight.
            stub.delay, stub.most = 0.2, 0
            with SteadyLoad(ports, key, 100) as load:
                load.go_on(1.2)
            assert load.statuses() == {200, 429}
            assert stub.most == 5
            # Slots that the replicas no longer use are one replica's.
            stub.most = 0
            with SteadyLoad(ports[2:], key, 60, connections=8) as load:
                wait_for("one replica has all slots", lambda: stub.most >= 5, 5)
            assert server.refusals() == []


@cases(check_limits, *([name] for name in SERVERS))
def test_one_limit_holds_on_each_kind_of_server(case, outcomes):
    outcomes[case].result()


# A server that goes away, and comes back with what it knew.

PER_SECOND, BURST, OFFERED = 20, 30, 90
LIMITS = "rate_limits: [{requests: 1200, per: 1m, burst: 30}]"


# Replicas come back one after another, within half a second. The parts of the late ones come on top.
LATE_PARTS = PER_SECOND * 0.5 * 2 / 3


def check_outage(stub, replicas, key, fail):
    """Checks the limit under load while the server is away.

    `fail` gets the load, makes the server go away and waits until it is back. It returns both times.
    """
    wait_for("all replicas reach the server", lambda: are_available(replicas))
    with SteadyLoad([replica.port for replica in replicas], key, OFFERED) as load:
        load.go_on(2)
        away, back = fail(load)
        load.go_on(4)
        end = time.monotonic()
    assert load.statuses() == {200, 429}
    too_many = excess(stub.times, PER_SECOND, BURST)
    assert too_many < LATE_PARTS + JITTER, f"{too_many} too many; {asks_without_answer(load, back + 2)}"
    meanwhile = sum(away <= moment < back for moment in stub.times)
    # Each part begins empty, and grants its first unit when it has one.
    assert meanwhile >= 0.8 * PER_SECOND * (back - away) - len(replicas), (meanwhile, back - away)
    assert_quick([seen for seen in load.seen if seen.sent >= away - 0.1], load)
    after = [round(moment - back, 2) for moment in stub.times if moment >= back]
    normal = sum(moment >= 2 for moment in after)
    assert normal >= 0.9 * PER_SECOND * (end - back - 2), after
    for replica in replicas:
        assert_few_messages(replica, 8)


def check_sentinel_failover():
    with SentinelGroup() as group, Stub() as stub:
        group.wait()
        with fleet(3, stub.port, group.shared, LIMITS) as (replicas, key):
            check_outage(stub, replicas, key, lambda _load: group.fail_over())


@cases(check_sentinel_failover, [])
def test_a_sentinel_failover_costs_nothing_and_grants_nothing_more(case, outcomes):
    outcomes[case].result()


@contextlib.contextmanager
def fleet_on(cluster, stub):
    """A fleet whose key is on another node than the registration of the replicas.

    Yields it, and the index of both nodes.
    """
    cluster.wait()
    of_replicas = cluster.index_of("{bw:fleet}:state")
    node_of = lambda key: cluster.index_of(f"bw:{{{key_id(key)}}}")
    # A fleet that ends stays registered for a while, and would make the parts of the next one smaller.
    with fleet(3, stub.port, cluster.shared, LIMITS, suits=lambda key: node_of(key) != of_replicas) as (replicas, key):
        yield replicas, key, {"replicas": of_replicas, "key": node_of(key)}


def check_cluster_failover(of):
    with Cluster() as cluster, Stub() as stub, fleet_on(cluster, stub) as (replicas, key, nodes):
        check_outage(stub, replicas, key, lambda _load: cluster.fail_over(nodes[of]))


@cases(check_cluster_failover, ["replicas"], ["key"])
def test_a_cluster_that_loses_a_node_costs_nothing_and_grants_nothing_more(case, outcomes):
    outcomes[case].result()


def check_lost_slots():
    """The other nodes go on. So the cluster still has the registration of the replicas."""
    options = ("--cluster-require-full-coverage", "no")
    with Cluster(*options) as cluster, Stub() as stub, fleet_on(cluster, stub) as (replicas, key, nodes):
        wait_for("all replicas reach the server", lambda: are_available(replicas))
        with SteadyLoad([replica.port for replica in replicas], key, OFFERED) as load:
            load.go_on(2)
            lost = cluster.lose(nodes["key"])
            load.go_on(4)
            end = time.monotonic()
        assert load.statuses() == {200, 429}
        assert excess(stub.times, PER_SECOND, BURST) < JITTER
        granted = sum(moment >= lost for moment in stub.times)
        assert granted >= 0.8 * PER_SECOND * (end - lost), f"{granted} granted in {end - lost} s"
        assert_quick([seen for seen in load.seen if seen.sent >= lost - 0.1], load)
        for replica in replicas:
            assert_few_messages(replica, 8)


@cases(check_lost_slots, [])
def test_a_key_whose_slots_are_lost_has_its_parts(case, outcomes):
    outcomes[case].result()


# Faults on the way to the server.

CUT = 4


def check_fault(mode):
    with Redis() as server, FaultProxy(server.port) as proxy, Stub() as stub:

        def fail(load):
            away = time.monotonic()
            # A tenth of a second in each direction is longer than the timeout of 50 ms.
            proxy.become(mode, 0.1)
            load.go_on(CUT)
            proxy.become("pass")
            return away, time.monotonic()

        with fleet(3, stub.port, f"redis://127.0.0.1:{proxy.port}", LIMITS) as (replicas, key):
            check_outage(stub, replicas, key, fail)


@cases(check_fault, ["hole"], ["delay"], ["reset"], ["refuse"])
def test_a_fault_on_the_way_costs_nothing_and_grants_nothing_more(case, outcomes):
    outcomes[case].result()


def check_broken_asks():
    """A connection that breaks while many keys wait for answers. No key is forgotten."""
    keys = {f"key-{index}": ["--permissions", "read", "--rate", "600/1m"] for index in range(40)}
    routes = "routes: [{name: all, paths: ['/**'], permission: read}]"
    with Redis() as server, FaultProxy(server.port) as proxy, Stub() as stub:
        config = f"{routes}\nshared: {{redis: redis://127.0.0.1:{proxy.port}}}\nworkers: 1\n"
        with Gateway(stub.port, keys, config=config) as replica:

            def has_come_back(times):
                return [message for _, message, _ in messages(replica)].count(AVAILABLE) > times

            for breaks in range(3):
                wait_for("the replica reaches the server", lambda: has_come_back(breaks))
                proxy.become("hole")
                with concurrent.futures.ThreadPoolExecutor(len(keys)) as pool:
                    waiting = [pool.submit(request, replica.port, key) for key in replica.tokens.values()]
                    time.sleep(0.03)
                    proxy.become("reset")
                    proxy.become("pass")
                    assert {one.result()[0] for one in waiting} <= {200, 429}
            wait_for("the replica reaches the server", lambda: has_come_back(3))
            # Leases are asked for within milliseconds. One that was forgotten costs each request the timeout.
            slow = list(replica.tokens.values())
            end = time.monotonic() + 4
            while slow and time.monotonic() < end:
                slow = [key for key in slow if request(replica.port, key)[1] > WITHOUT_ANSWER]
            assert len(slow) == 0, f"{len(slow)} of {len(keys)} keys wait for the server, and get no answer"


def request(port, key):
    """Sends a request. Returns the status, and the time that it took in seconds."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as side:
        side.sendall(f"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
        status = int(side.recv(65536)[9:12])
    return status, time.monotonic() - began


@cases(check_broken_asks, [])
def test_a_connection_that_breaks_makes_no_key_slow_for_ever(case, outcomes):
    outcomes[case].result()


def check_slow_server():
    """A server that answers within its timeout is no server that is away."""
    with Redis() as server, FaultProxy(server.port) as proxy, Stub() as stub:
        proxy.become("delay", 0.005)
        with fleet(3, stub.port, f"redis://127.0.0.1:{proxy.port}", LIMITS) as (replicas, key):
            wait_for("all replicas reach the server", lambda: are_available(replicas))
            with SteadyLoad([replica.port for replica in replicas], key, OFFERED) as load:
                load.go_on(3)
            assert load.statuses() == {200, 429}
            assert excess(stub.times, PER_SECOND, BURST) < JITTER
            assert len(stub.times) >= 0.95 * (BURST + PER_SECOND * 2.9), len(stub.times)
            assert_quick(load.seen, load)


@cases(check_slow_server, [])
def test_a_slow_server_shares_limits_as_a_quick_one(case, outcomes):
    outcomes[case].result()


def check_one_cut_off():
    """Two replicas reach the server, and one does not."""
    with Redis() as server, FaultProxy(server.port) as proxy, Stub() as stub, contextlib.ExitStack() as stack:
        replicas, key = stack.enter_context(fleet(2, stub.port, server.url, LIMITS))
        config = (
            f"keys: {{path: {replicas[0].path / 'keys.yaml'}}}\nroutes: [{{name: all, paths: ['/**'], permission: read}}]\n"
            f"shared: {{redis: redis://127.0.0.1:{proxy.port}}}\nworkers: 1\n"
        )
        everybody = [*replicas, stack.enter_context(Gateway(stub.port, {}, config=config))]
        wait_for("all replicas reach the server", lambda: are_available(everybody))
        with SteadyLoad([replica.port for replica in everybody], key, OFFERED) as load:
            load.go_on(2)
            away = time.monotonic()
            proxy.become("hole")
            load.go_on(CUT)
        assert load.statuses() == {200, 429}
        # The replica's part comes on top: a third of the limit, since it was cut off.
        part = (BURST + PER_SECOND * (time.monotonic() - away)) / 3
        assert excess(stub.times, PER_SECOND, BURST) < part + JITTER
        grants = [seen.replica for seen in load.seen if seen.status == 200 and seen.sent > away]
        granted = [grants.count(index) for index in range(3)]
        assert granted[0] + granted[1] >= 0.9 * PER_SECOND * CUT, granted
        assert granted[2] >= 0.8 * PER_SECOND * CUT / 3, granted
        assert_quick([seen for seen in load.seen if seen.sent >= away - 0.1], load)


@cases(check_one_cut_off, [])
def test_a_replica_that_is_cut_off_grants_its_part(case, outcomes):
    outcomes[case].result()


def check_slots_during_fault():
    with Redis() as server, FaultProxy(server.port) as proxy, Stub() as stub:
        with fleet(3, stub.port, f"redis://127.0.0.1:{proxy.port}", "max_concurrent: 5") as (replicas, key):
            wait_for("all replicas reach the server", lambda: are_available(replicas))
            stub.delay = 0.2
            with SteadyLoad([replica.port for replica in replicas], key, 60) as load:
                load.go_on(1)
                proxy.become("hole")
                # What was in flight when the server went away has ended then.
                load.go_on(1)
                stub.most = 0
                load.go_on(2)
                during = stub.most
                proxy.become("pass")
                load.go_on(1)
                at_return, stub.most = stub.most, 0
                load.go_on(1)
            assert load.statuses() == {200, 429}
            assert (during, stub.most) == (5, 5)
            # The parts of two replicas that come back later than the first one.
            assert at_return <= 5 + 2 + 2, at_return
            assert_quick([seen._replace(seconds=seen.seconds - stub.delay) for seen in load.seen], load)


@cases(check_slots_during_fault, [])
def test_requests_in_flight_are_limited_while_the_server_is_away(case, outcomes):
    outcomes[case].result()


# Servers that do not do what they should.

PART = "replicas: 3"

# What a server may make a replica hold, in KiB.
MEMORY = 16 * 1024


def check_hostile(mode, greets):
    with HostileRedis(mode, greets=greets == "after a greeting") as server, Stub() as stub:
        with fleet(1, stub.port, server.shared, LIMITS + "\n    max_concurrent: 30", f", {PART}") as ([replica], key):
            before, most = replica.rss_kib(), 0
            began = time.monotonic()
            with SteadyLoad([replica.port], key, 40) as load:
                while time.monotonic() < began + 2.5:
                    load.go_on(0.05)
                    most = max(most, replica.rss_kib())
            assert replica.process.poll() is None
            assert load.statuses() == {200, 429}
            # A third of the limit, which begins empty when the replica starts.
            assert excess(stub.times, PER_SECOND / 3, BURST / 3) < JITTER
            assert len(stub.times) >= 0.8 * PER_SECOND / 3 * 2.5, len(stub.times)
            assert_quick(load.seen, load)
            assert most - before < MEMORY, f"{(most - before) / 1024:.0f} MiB more memory"
            assert_few_messages(replica, 5)


HOSTILE = [[mode, "after a greeting"] for mode in hostile_redis.MODES]
AT_ONCE = ("wrong types", "huge string", "endless line", "endless pushes", "binary", "silence", "closes")
HOSTILE += [[mode, "at once"] for mode in AT_ONCE]


@cases(check_hostile, *HOSTILE)
def test_a_hostile_server_costs_a_message(case, outcomes):
    outcomes[case].result()


def check_turns_hostile(mode):
    with Redis() as server, FaultProxy(server.port) as proxy, HostileRedis(mode) as hostile, Stub() as stub:
        with fleet(1, stub.port, f"redis://127.0.0.1:{proxy.port}", LIMITS) as ([replica], key):
            wait_for("the replica reaches the server", lambda: are_available([replica]))
            before, most = replica.rss_kib(), 0
            with SteadyLoad([replica.port], key, 40) as load:
                load.go_on(2)
                turned = time.monotonic()
                proxy.turn_to(hostile.port)
                while time.monotonic() < turned + 2:
                    load.go_on(0.05)
                    most = max(most, replica.rss_kib())
            assert load.statuses() == {200, 429}
            assert excess(stub.times, PER_SECOND, BURST) < JITTER
            granted = sum(moment >= turned for moment in stub.times)
            assert granted >= 0.8 * PER_SECOND * 2, granted
            assert_quick(load.seen, load)
            assert most - before < MEMORY, f"{(most - before) / 1024:.0f} MiB more memory"
            assert len(messages(replica)) >= 2, messages(replica)
            assert_few_messages(replica, 6)


@cases(check_turns_hostile, ["wrong types"], ["huge string"], ["endless pushes"], ["silence"])
def test_a_server_that_turns_hostile_costs_a_message(case, outcomes):
    outcomes[case].result()


def check_unreached(why):
    with SecureRedis() as server, Stub() as stub:
        shared = {
            "nobody listens": "redis://127.0.0.1:1",
            "wrong password": server.shared.replace(str(server.password), server.certificate),
            "unknown CA": server.shared.replace(f"ca: {server.ca}", f"ca: {server.certificate}"),
            "no TLS": re.sub(r", tls: {.*?}", "", server.shared.replace("rediss:", "redis:")),
        }[why]
        with fleet(1, stub.port, shared, LIMITS, f", {PART}") as ([replica], key):
            with SteadyLoad([replica.port], key, 20) as load:
                load.go_on(1)
            assert load.statuses() <= {200, 429}
            assert len(messages(replica)) >= 1
            assert_few_messages(replica, 5)


@cases(check_unreached, ["nobody listens"], ["wrong password"], ["unknown CA"], ["no TLS"])
def test_the_log_says_why_a_server_was_never_reached(case, outcomes):
    outcomes[case].result()


def check_refused(what):
    """The server lets replicas register, and refuses what the limits need."""
    acl = {
        "the keys of limits": LEAST_ACL.replace("~bw:*", ""),
        "HMGET": LEAST_ACL.replace("+hmget", ""),
        "HGETALL": LEAST_ACL.replace("+hgetall", ""),
    }[what]
    with SecureRedis(acl=acl) as server, Stub() as stub:
        with fleet(3, stub.port, server.shared, LIMITS + "\n    max_concurrent: 30", f", {PART}") as (replicas, key):
            with SteadyLoad([replica.port for replica in replicas], key, OFFERED) as load:
                load.go_on(3)
            assert load.statuses() == {200, 429}
            assert excess(stub.times, PER_SECOND, BURST) < JITTER
            assert len(stub.times) >= 0.8 * PER_SECOND * 2.9, len(stub.times)
            for replica in replicas:
                assert_few_messages(replica, 8)


@cases(check_refused, ["the keys of limits"], ["HMGET"], ["HGETALL"])
def test_a_server_that_refuses_a_part_costs_a_message(case, outcomes):
    outcomes[case].result()
