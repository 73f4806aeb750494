"""Changes under load, in small numbers; `make measure` makes the promised number."""

import asyncio

import live
import pytest
from gateway import free_port


def nothing_failed(load):
    assert not load.failed(), load.failures[:5]
    assert load.counts.get("ok", 0) > 50, load.counts


def test_keys_change_by_every_method_and_no_request_is_wrongly_decided():
    load, revoked, added = asyncio.run(live.key_changes(12, 0, connections=24))
    nothing_failed(load)
    assert len(revoked) == 4
    slowest = max(max(times) for by_method in (revoked, added) for times in by_method.values())
    assert slowest < 2, (revoked, added)


def test_a_partly_written_file_removes_no_key():
    load, tried = asyncio.run(live.prefixes(dwell=0.12, step=11))
    nothing_failed(load)
    assert tried > 30


def test_certificates_change_under_a_load_of_new_connections():
    load, _ = asyncio.run(live.certificates(3))
    nothing_failed(load)


def test_a_configuration_changes_as_a_whole():
    load, seen, refused = asyncio.run(live.configurations(8))
    nothing_failed(load)
    assert len(seen) == 2, "both configurations served requests"
    error = refused["error"]
    assert error["code"] == "RELOAD_REFUSED" and error["details"]["config"] == "refused"
    [fault] = error["details"]["faults"]
    assert fault["line"] > 0 and "begins with `/`" in fault["message"]


def test_a_stop_leaves_no_request_unanswered():
    ends, codes, slowest, queued, idle = asyncio.run(live.stops(3))
    assert set(ends) == {"closed"}, ends
    assert set(codes) == {0} and set(idle) == {b""} and queued == 48
    assert slowest < 10


def test_a_restart_with_socket_activation_fails_no_request():
    load, codes = asyncio.run(live.restarts(4))
    nothing_failed(load)
    assert set(codes) == {0}


@pytest.mark.parametrize("balance", ["least_requests", "round_robin"])
def test_a_killed_endpoint_fails_only_requests_in_flight(balance):
    load, failed, back = asyncio.run(live.killed_endpoint([free_port() for _ in range(3)], balance=balance))
    assert load.counts["ok"] > 100
    assert all(when < 1000 for when in failed), failed
    assert max(back) <= 5
