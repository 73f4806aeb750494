"""Certificates from a real authority, Pebble: both challenges, renewals under load, kills, faults, several processes."""

import base64
import concurrent.futures
import contextlib
import http.client
import json
import random
import signal
import ssl
import subprocess
import time

import pytest

from authority import DOMAIN, Pebble, Way, pebble_and_way, problem
from edge import (
    acme,
    asked,
    certificate,
    context_of,
    edge,
    killed_again_and_again,
    readiness,
    renewals_under_load,
    wait_until_ready,
)
from gateway import Gateway, free_port, wait_for
from redis_server import Redis, server_port

# The life of certificates that are to be renewed in a test: they are due after ten seconds.
SHORT = 15


def metric(gateway, name):
    """The samples of a metric: labels → value."""
    text = asked(gateway.admin_port, "/metrics")[2]
    lines = [line for line in text.splitlines() if line.startswith(name)]
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


def events(gateway, event):
    """The lines of the audit log of an event."""
    return [json.loads(line) for line in list(gateway.lines) if f'"{event}"' in line]


def add_a_domain(gateway):
    """Adds a domain to the configuration, so that an order is due at once."""
    path = gateway.path / "bearward.yaml"
    path.write_text(path.read_text().replace(f"[{DOMAIN}]", f"[{DOMAIN}, more.example.test]"))
    assert gateway.reload()["data"]["config"] == "applied"


def test_certificates_are_renewed_under_load_by_either_challenge():
    def renewed(challenge):
        with Pebble(life=SHORT, tls_port=server_port(), http_port=server_port()) as pebble:
            return challenge, *renewals_under_load(pebble, challenge, renewals=2, connections=32), pebble.orders()

    with concurrent.futures.ThreadPoolExecutor() as pool:
        for challenge, load, status, orders in pool.map(renewed, ["tls-alpn-01", "http-01"]):
            assert load.failures == [], (challenge, load.failures[:3])
            assert len(load.served) == 3 and load.count > 100, (challenge, load.served)
            assert status["failed"] == 0 and status["issued"] == orders, (challenge, status)


def test_a_start_that_was_killed_goes_on():
    with Pebble(tls_port=server_port()) as pebble:
        moments = [random.uniform(0.0, 1.2) for _ in range(16)]
        orders, certificates = killed_again_and_again(pebble, moments)
    assert max(orders) <= 1, (orders, moments)
    assert certificates == ["0o600"]


def test_three_processes_on_one_storage_order_once():
    with Pebble(life=SHORT, tls_port=server_port()) as pebble, contextlib.ExitStack() as stack:
        storage = pebble.path / "storage"
        # The authority reaches the first one alone, whoever of them orders.
        ports = [pebble.tls_port, server_port(), server_port()]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            started = pool.map(lambda port: stack.enter_context(edge(pebble, storage, port)), ports)
            gateways = list(started)
            list(pool.map(wait_until_ready, gateways))
        assert pebble.orders() == 1
        roots = pebble.roots()
        first = {certificate(port, roots) for port in ports}
        assert len(first) == 1
        # And once for the renewal, which all of them serve soon.
        wait_for("the renewal", lambda: first.isdisjoint(certificate(port, roots) for port in ports), seconds=30)
        assert len({certificate(port, roots) for port in ports}) == 1
        assert pebble.orders() == 2
        issued = [gateway.admin_status()["acme"][0]["issued"] for gateway in gateways]
        assert sum(issued) == 2 and all(gateway.admin_status()["acme"][0]["failed"] == 0 for gateway in gateways)


def test_a_restart_with_a_valid_certificate_asks_nobody():
    with pebble_and_way(tls_port=server_port()) as (pebble, way):
        storage = pebble.path / "storage"
        with edge(pebble, storage, directory=way.url) as gateway:
            wait_until_ready(gateway)
            first = certificate(gateway.port, pebble.roots())
            assert storage.stat().st_mode & 0o777 == 0o700
            assert all(path.stat().st_mode & 0o077 == 0 for path in storage.rglob("*"))
            gateway.process.send_signal(signal.SIGTERM)
            gateway.process.wait(10)
            way.asked.clear()
            gateway.start()
            assert readiness(gateway)[0] == 200
            assert certificate(gateway.port, pebble.roots()) == first
        assert way.asked == []


def test_what_is_damaged_in_the_storage_counts_as_missing():
    with Pebble(tls_port=server_port()) as pebble:
        storage = pebble.path / "storage"
        with edge(pebble, storage) as gateway:
            wait_until_ready(gateway)
            (stored,) = storage.glob("certificates/*.pem")
            whole = stored.read_bytes()
            for damage in (whole[: len(whole) // 2], b"", b"nonsense", whole.replace(b"PRIVATE", b"PUBLIC"), bytes(99)):
                gateway.process.kill()
                gateway.process.wait()
                stored.write_bytes(damage)
                for left in [*storage.glob("accounts/*"), *storage.glob("orders/*"), *storage.glob("locks/*")]:
                    left.write_bytes(damage)
                before = pebble.orders()
                gateway.start()
                wait_until_ready(gateway)
                assert pebble.orders() == before + 1
                certificate(gateway.port, pebble.roots())


def test_a_domain_that_is_added_leaves_the_old_certificate_in_service():
    with pebble_and_way(tls_port=server_port()) as (pebble, way):
        storage = pebble.path / "storage"
        with edge(pebble, storage, directory=way.url) as gateway:
            wait_until_ready(gateway)
            roots = pebble.roots()
            first = certificate(gateway.port, roots)
            # The authority is away, so that the new certificate does not come.
            way.answer = lambda *_: (503, [], b"away")
            add_a_domain(gateway)
            wait_for("the fault", lambda: gateway.admin_status()["acme"][0]["fault"])
            assert certificate(gateway.port, roots) == first and readiness(gateway)[0] == 200
            # Also after a restart.
            gateway.process.kill()
            gateway.process.wait()
            gateway.start()
            assert certificate(gateway.port, roots) == first and readiness(gateway)[0] == 200
            way.answer = lambda *_: None
            gateway.process.kill()
            gateway.process.wait()
            gateway.start()
            wait_for("the new one", lambda: certificate(gateway.port, roots) != first, seconds=40)
            certificate(gateway.port, roots, "more.example.test")


def test_a_first_start_without_the_authority_is_unready_and_ends_at_once():
    with Pebble(tls_port=server_port(), http_port=server_port()) as pebble, Way(pebble) as way:
        way.answer = way.hang
        for directory in (way.url, f"https://localhost:{free_port()}/dir"):
            storage = pebble.path / "storage"
            with edge(pebble, storage, challenge="http-01", directory=directory) as gateway:
                status, text = readiness(gateway)
                assert (status, json.loads(text)["error"]["code"]) == (503, "CERTIFICATE_MISSING")
                assert json.loads(text)["error"]["details"]["certificates"][0]["domains"] == [DOMAIN]
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    certificate(gateway.port, pebble.ca)
                # The listener without TLS serves as configured: here it redirects.
                assert asked(pebble.http_port, "/health", DOMAIN)[0] == 308
                assert asked(pebble.http_port, "/.well-known/acme-challenge/unknown", DOMAIN)[0] == 308
                if directory == way.url:
                    wait_for("the authority is asked", lambda: way.asked)
                else:
                    wait_for("the fault is told", lambda: "can't connect" in readiness(gateway)[1])
                begun = time.monotonic()
                gateway.process.send_signal(signal.SIGTERM)
                assert gateway.process.wait(10) == 0 and time.monotonic() - begun < 3


def to_orders(*refusal, **more):
    """An authority that refuses orders."""
    return lambda _, path, __: problem(*refusal, **more) if path == "/order-plz" else None


REFUSALS = {
    # What the authority does once the certificate is due, what is told of it, and the least pause, in seconds.
    "refuses": (to_orders(403, "rejectedIdentifier", "not here"), "not here (rejectedIdentifier)", 10),
    "hangs": (None, "no answer within", 10),
    "garbage": (lambda *_: (200, [("retry-after", "99999999999999999999")], b"\0garbage" * 999), "ACME server", 10),
    "html": (lambda *_: (502, [], b"<html>Bad gateway</html>"), "answers 502", 10),
    "endless": (lambda *_: (200, [("retry-after", str(2**64 - 1))], b" " * (1 << 21)), "broke off", 10),
    "rate-limits": (to_orders(429, "rateLimited", "too many", retry_after=7200), "rateLimited", 7200),
    "rate-limits-silently": (to_orders(429, "rateLimited", "too many"), "rateLimited", 3600),
    "refuses-nonces": (to_orders(400, "badNonce", "not this one"), "not this one (badNonce)", 10),
    "server-error": (to_orders(500, "serverInternal", "oops", retry_after=60), "serverInternal", 60),
}


def test_faults_of_the_authority_leave_the_old_certificate_and_are_told():
    def run(name):
        answer, told, least = REFUSALS[name]
        with pebble_and_way(life=90, tls_port=server_port()) as (pebble, way):
            storage = pebble.path / "storage"
            with edge(pebble, storage, directory=way.url) as gateway:
                wait_until_ready(gateway)
                roots = pebble.roots()
                first = certificate(gateway.port, roots)
                # Another domain is wanted, so that an order is due at once.
                way.answer, since = answer or way.hang, time.monotonic()
                add_a_domain(gateway)
                wait_for(f"{name} is told", lambda: gateway.admin_status()["acme"][0]["fault"], seconds=60)
                status = gateway.admin_status()["acme"][0]
                assert told in status["fault"]["message"] and status["fault"]["advice"], (name, status)
                assert status["failed"] == 1
                assert least - 4 <= until(status["due_at"]) <= least * 1.25 + 2, (name, status["due_at"])
                assert metric(gateway, "bearward_acme_failing") == {
                    f'bearward_acme_failing{{domains="{DOMAIN},more.example.test"}}': 1.0
                }
                wait_for("the audit log", lambda: events(gateway, "certificate_failed"))
                assert told in events(gateway, "certificate_failed")[-1]["reason"]
                assert any("got no certificate" in line and "advice" in line for line in gateway.lines)
                page = asked(gateway.admin_port, "/")[2]
                assert "Certificates from an authority" in page and told in page
                assert certificate(gateway.port, roots) == first and readiness(gateway)[0] == 200
                asked_again = way.count("/", since)
                # No request before it is due.
                way.over.wait(1)
                assert way.count("/", since) == asked_again, name

    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(run, REFUSALS))


# The beginnings of the paths of what an order asks of Pebble with a nonce.
STEPS = ["/sign-me-up", "/order-plz", "/authZ/", "/chalZ/", "/finalize-order/", "/certZ/"]


def test_a_nonce_that_is_refused_costs_no_attempt():
    def run(step):
        refused = []

        def answer(method, path, _):
            # Once more than the ACME client sends a request by itself.
            if method == "POST" and path.startswith(step) and len(refused) < 4:
                refused.append(path)
                status, headers, body = problem(400, "badNonce", "not this one")
                return status, [(name, value) for name, value in headers if name != "replay-nonce"], body
            return None

        with pebble_and_way(tls_port=server_port()) as (pebble, way):
            way.answer = answer
            with edge(pebble, pebble.path / "storage", directory=way.url) as gateway:
                wait_until_ready(gateway)
                certificate(gateway.port, pebble.roots())
                status = gateway.admin_status()["acme"][0]
                assert (status["issued"], status["failed"], status["fault"]) == (1, 0, None), (step, status)
                assert len(refused) == 4, (step, refused)
                assert pebble.orders() == 1, step

    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(run, STEPS))


def account_of(storage):
    (path,) = storage.glob("accounts/*.json")
    return json.loads(path.read_text())


def test_an_account_that_the_authority_does_not_know_is_made_again():
    with Pebble(life=SHORT, tls_port=server_port()) as pebble:
        storage = pebble.path / "storage"
        with edge(pebble, storage) as gateway:
            wait_until_ready(gateway)
            before, first = account_of(storage), certificate(gateway.port, pebble.roots())
            # Pebble forgets everything when it is started again.
            pebble.stop()
            pebble.start()
            roots = pebble.roots()

            def is_renewed():
                with contextlib.suppress(ssl.SSLError):
                    return certificate(gateway.port, roots) != first

            wait_for("the renewal", is_renewed, seconds=60)
            assert account_of(storage)["credentials"]["id"] != before["credentials"]["id"]
            assert any("accountDoesNotExist" in line for line in gateway.lines)


def test_an_account_that_was_deactivated_is_told_and_the_old_certificate_serves():
    with pebble_and_way(tls_port=server_port()) as (pebble, way):
        storage = pebble.path / "storage"
        with edge(pebble, storage, directory=way.url) as gateway:
            wait_until_ready(gateway)
            roots = pebble.roots()
            first = certificate(gateway.port, roots)
            way.answer = lambda method, path, body: (
                problem(403, "unauthorized", "the account was deactivated") if method == "POST" else None
            )
            add_a_domain(gateway)
            wait_for("the fault", lambda: gateway.admin_status()["acme"][0]["fault"])
            fault = gateway.admin_status()["acme"][0]["fault"]
            assert "deactivated" in fault["message"] and "accounts/" in fault["advice"]
            assert certificate(gateway.port, roots) == first


def test_a_name_that_leads_elsewhere_is_named():
    with Pebble(tls_port=free_port()) as pebble:
        # The authority's port leads to nobody.
        with edge(pebble, pebble.path / "storage", port=server_port()) as gateway:
            wait_for("the fault", lambda: gateway.admin_status()["acme"][0]["fault"], seconds=40)
            fault = gateway.admin_status()["acme"][0]["fault"]
            assert DOMAIN in fault["message"] and fault["advice"]
            assert gateway.admin_status()["is_ready"] is False


def test_an_external_account_is_bound():
    secret = base64.urlsafe_b64encode(bytes(range(32))).decode().rstrip("=")
    with Pebble(tls_port=server_port(), external={"kid-1": secret}) as pebble:
        storage = pebble.path / "storage"
        (pebble.path / "hmac").write_text(secret + "\n")
        with edge(pebble, storage) as gateway:
            wait_for("the fault", lambda: "externalAccountRequired" in readiness(gateway)[1])
            assert "external_account" in readiness(gateway)[1]
        bound = f", external_account: {{key_id: kid-1, hmac_key: {{file: {pebble.path / 'hmac'}}}}}"
        with edge(pebble, storage, more=bound) as gateway:
            wait_until_ready(gateway)
            assert secret not in "".join(gateway.lines)


class RenewalInfo:
    """An authority that suggests to renew at once (RFC 9773). `orders`: the payloads of orders. `echoes`: whether it
    says which certificate an order replaces; `refuses`: whether it refuses orders that replace one."""

    def __init__(self, way, echoes=True, refuses=False):
        self.way, self.orders, self.asked, self.echoes, self.refuses = way, [], None, echoes, refuses
        way.answer, way.alter = self.answer, self.alter

    def answer(self, method, path, body):
        if path.startswith("/renewal-info/"):
            window = {"start": "2020-01-01T00:00:00Z", "end": "2020-01-02T00:00:00Z"}
            return 200, [("retry-after", "21600")], json.dumps({"suggestedWindow": window}).encode()
        if path == "/order-plz":
            payload = json.loads(body)["payload"]
            self.asked = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
            if self.refuses and "replaces" in self.asked:
                self.orders.append(self.asked)
                return problem(403, "unauthorized", "requester account did not request the certificate being replaced")
        return None

    def alter(self, path, status, headers, body):
        if path == "/dir":
            body = json.dumps({**json.loads(body), "renewalInfo": f"{self.way.url[:-4]}/renewal-info"}).encode()
        elif path == "/order-plz" and status == 201:
            # Pebble refuses some requests for their nonces, which are then repeated.
            self.orders.append(self.asked)
            if "replaces" in self.asked and self.echoes:
                body = json.dumps({**json.loads(body), "replaces": self.asked["replaces"]}).encode()
        return status, headers, body


def until(due):
    """Seconds until a time of the status."""
    return time.mktime(time.strptime(due[:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone - time.time()


def test_renewal_information_brings_a_renewal_forward():
    plain, replacing = ["identifiers"], ["identifiers", "replaces"]

    def renewed(case):
        options, expected = case
        with pebble_and_way(life=5 * 365 * 86400, tls_port=server_port()) as (pebble, way):
            authority = RenewalInfo(way, **options)
            with edge(pebble, pebble.path / "storage", directory=way.url) as gateway:
                wait_until_ready(gateway)
                first, begun = certificate(gateway.port, pebble.roots()), time.monotonic()
                wait_for("the renewal", lambda: certificate(gateway.port, pebble.roots()) != first, seconds=60)
                assert time.monotonic() - begun > 8, "not oftener than every ten seconds"
                assert [sorted(order) for order in authority.orders] == expected, options
                # The next one, which is due at once as well, waits longer.
                assert 12 < until(gateway.admin_status()["acme"][0]["due_at"]) <= 21

    cases = [
        ({}, [plain, replacing]),
        # An order whose certificate the authority does not know as ours is placed without it at once.
        ({"refuses": True}, [plain, replacing, plain]),
        # The authority takes the order, and no note of what it replaces: the order is lost, and never again.
        ({"echoes": False}, [plain, replacing, plain]),
    ]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(renewed, cases))


def test_replicas_wait_together_for_an_authority_that_was_asked_too_often():
    with pebble_and_way(tls_port=server_port()) as (pebble, way), contextlib.ExitStack() as stack:
        storage = pebble.path / "storage"
        ports = [pebble.tls_port, server_port(), server_port()]
        way.answer = to_orders(429, "rateLimited", "too many")
        gateways = [stack.enter_context(edge(pebble, storage, port, directory=way.url)) for port in ports]
        wait_for("the fault", lambda: all(gateway.admin_status()["acme"][0]["fault"] for gateway in gateways))
        assert way.count("/order-plz") == 1
        # A restart does not ask either: it was the authority that has asked to wait.
        gateways[0].process.kill()
        gateways[0].process.wait()
        gateways[0].start()
        wait_for("the fault after a restart", lambda: gateways[0].admin_status()["acme"][0]["fault"])
        assert until(gateways[0].admin_status()["acme"][0]["due_at"]) > 3500
        assert way.count("/order-plz") == 1


def test_two_certificates_have_one_account():
    with pebble_and_way(tls_port=server_port()) as (pebble, way):
        storage, second = pebble.path / "storage", server_port()
        other = acme(pebble, storage, directory=way.url, domains=["other.example.test"])
        # The authority reaches one listener, which answers for both.
        more = f'127.0.0.1:{second}, {other}}}, {{address: "127.0.0.1:{pebble.tls_port}"'
        listener = f"{more}, {acme(pebble, storage, directory=way.url)}"
        with Gateway(1, {"reader": ["--permissions", "read"]}, listener=listener, admin=True) as gateway:
            wait_until_ready(gateway)
            assert pebble.accounts() == 1 and pebble.orders() == 2
            certificate(second, pebble.roots(), "other.example.test")
            certificate(pebble.tls_port, pebble.roots())


@pytest.mark.parametrize("challenge", ["tls-alpn-01", "http-01"])
def test_replicas_with_a_server_answer_for_each_other(challenge):
    with Redis() as redis, Pebble(tls_port=server_port(), http_port=server_port()) as pebble, contextlib.ExitStack() as stack:
        redis.allow()
        shared = f"shared: {{redis: {redis.shared}, replicas: 2}}"
        first = stack.enter_context(edge(pebble, pebble.path / "one", challenge=challenge, config=shared))
        wait_until_ready(first)
        # The authority reaches the first one alone, and the second one has a storage of its own.
        second = stack.enter_context(
            edge(pebble, pebble.path / "two", server_port(), challenge, server_port(), config=shared)
        )
        wait_until_ready(second)
        assert pebble.orders() == 2 and redis.refusals() == []
        assert all(gateway.admin_status()["acme"][0]["failed"] == 0 for gateway in (first, second))
        # Nothing of a key or a certificate is in the server.
        dump = "".join(redis.cli("HGETALL", name) for name in redis.cli("KEYS", "*acme*").split())
        assert "PRIVATE" not in dump and "BEGIN" not in dump
        # Without the server, a storage is enough.
        redis.kill()
        third = stack.enter_context(
            edge(pebble, pebble.path / "one", server_port(), challenge, server_port(), config=shared)
        )
        wait_until_ready(third)
        assert pebble.orders() == 2


def junk(chain, _):
    return chain + b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def too_many(chain, _):
    return chain + chain[chain.rindex(b"-----BEGIN") :] * 600


def for_other_names(_, authority):
    return authority.issue_cert("elsewhere.example.test").cert_chain_pems[0].bytes()


def with_a_key(_, authority):
    """A certificate for the right names, and its key beside it: not what was ordered."""
    other = authority.issue_cert(DOMAIN, "more.example.test")
    return other.private_key_pem.bytes() + other.cert_chain_pems[0].bytes()


USELESS = {
    junk: "can't be read",
    too_many: "too long a chain",
    for_other_names: "not for all names",
    with_a_key: "not for the key",
    lambda *_: (b""): "can't be read",
}


def test_a_certificate_that_is_of_no_use_replaces_none():
    def run(case):
        altered, told = case
        with pebble_and_way(tls_port=server_port()) as (pebble, way):
            with edge(pebble, pebble.path / "storage", directory=way.url) as gateway:
                wait_until_ready(gateway)
                roots = pebble.roots()
                first = certificate(gateway.port, roots)
                way.alter = lambda path, status, headers, body: (
                    (status, headers, altered(body, pebble.authority)) if path.startswith("/certZ/") else (status, headers, body)
                )
                add_a_domain(gateway)

                def is_told():
                    # A busy machine may cost the first attempt its connection.
                    fault = gateway.admin_status()["acme"][0]["fault"]
                    return fault and told in fault["message"]

                wait_for(f"the fault {told}", is_told, seconds=100)
                assert certificate(gateway.port, roots) == first
                way.alter = lambda path, status, headers, body: (status, headers, body)
                # The order that gave this is given up.
                wait_for("the new one", lambda: certificate(gateway.port, roots) != first, seconds=100)
                certificate(gateway.port, roots, "more.example.test")

    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(run, USELESS.items()))


def test_tokens_are_answered_before_all_routes_and_no_others():
    with pebble_and_way(tls_port=server_port(), http_port=server_port()) as (pebble, way):
        seen = []

        def answer(method, path, body):
            # The authority has been told that it may ask; it is asked here first.
            if path.startswith("/chalZ/") and method == "POST":
                (token,) = [name for name in seen if name]
                answers = [asked(pebble.http_port, f"/.well-known/acme-challenge/{token}", host) for host in (DOMAIN, "x")]
                seen.append(answers)
            return None

        def alter(path, status, headers, body):
            if path.startswith("/authZ/") and status == 200 and not seen:
                challenges = json.loads(body)["challenges"]
                seen.append(next(one["token"] for one in challenges if one["type"] == "http-01"))
            return status, headers, body

        way.answer, way.alter = answer, alter
        with edge(pebble, pebble.path / "storage", challenge="http-01", directory=way.url) as gateway:
            wait_until_ready(gateway)
            token, answers = seen[0], seen[1]
            assert [status for status, _, _ in answers] == [200, 200]
            assert all(text.startswith(f"{token}.") for _, _, text in answers)
            # It is withdrawn with the order.
            for path in (token, "unknown", "..%2f..%2faccounts", "a" * 300, ""):
                assert asked(pebble.http_port, f"/.well-known/acme-challenge/{path}", DOMAIN)[0] in (308, 400)
            assert asked(pebble.http_port, f"/.well-known/acme-challenge/{token}", DOMAIN, method="POST")[0] == 308
