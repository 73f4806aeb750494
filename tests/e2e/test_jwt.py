"""Tokens (JWTs) of issuers: who is let in, who is not and why, changes of keys, and issuers that misbehave."""

import concurrent.futures
import contextlib
import http.client
import json
import os
import select
import socket
import subprocess
import threading
import time

import pytest
import trustme
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

from bad_tokens import bad_tokens
from gateway import CACHE, Gateway, binary, wait_for
from issuer import Issuer, Key, b64, send
from proxies import send as ask
from scripted import SSE, Scripted, chunk, json_answer

ROUTES = "routes: [{name: all, paths: ['/**'], permission: read}]\n"


def echo(side, request):
    """Answers with the head of the request."""
    side.sendall(json_answer(json.dumps({"head": request.decode("latin-1")})))


@contextlib.contextmanager
def guarded(issuer, config=None, script=echo, more="", **fields):
    """bearward that trusts an issuer, in front of a scripted model server."""
    with Scripted(script) as model:
        keys = {"reader": ["--permissions", "read"]}
        text = ROUTES + (config or issuer.config()) + "\n" + more
        with Gateway(model.port, keys, config=text, admin=True, **fields) as gateway:
            yield gateway


def status_of(gateway, token, path="/v1/models", headers=()):
    """Status and body of a request with a token."""
    status, _, body = ask(gateway.port, "GET", path, [("Authorization", f"Bearer {token}"), *headers])
    return status, body.decode(errors="replace")


def audited(gateway, request_id):
    """The line of the audit log about a request."""
    def found():
        lines = [json.loads(line) for line in list(gateway.lines) if request_id in line]
        return next((line for line in lines if line.get("event") == "refused"), None)

    wait_for(f"the audit line of {request_id}", lambda: found() is not None)
    return found()


@pytest.mark.parametrize("half", [0, 1])
def test_bad_tokens_identify_nobody_and_the_audit_log_says_why(half):
    rsa, weak = Key("rsa", "RS256"), Key("weak", "RS256", bits=1024)
    with Issuer(Key("one"), rsa, weak) as issuer:
        denied = "\nsub: ['system:serviceaccount:evals:mallory']\njti: [the-denied-one]\n"
        identities = '[{when: {sub: "system:serviceaccount:evals:*"}, permissions: [read]}]'
        with open(CACHE / f"denied-{half}.yaml", "w") as file:
            file.write(denied)
        config = issuer.config(identities).removesuffix("}") + f", deny: {file.name}}}"
        # Audit lines about each address are limited, so each token comes from an address of its own.
        with guarded(issuer, config, more="trusted_proxies: [127.0.0.1]\n") as gateway:
            assert status_of(gateway, issuer.token())[0] == 200
            cases = bad_tokens(issuer, rsa, weak)
            assert len(cases) >= 80
            for number, (name, token, code, reason) in list(enumerate(cases))[half::2]:
                request_id = f"bad-token-{number}-x"
                headers = [("X-Request-Id", request_id), ("X-Forwarded-For", f"192.0.2.{number}")]
                status, body = status_of(gateway, token, headers=headers)
                assert status in (401, 431), (name, status, body)
                if status == 431:
                    continue
                assert json.loads(body)["error"]["code"] == code, (name, body)
                if reason:
                    line = audited(gateway, request_id)
                    assert (line["code"], line["reason"]) == (code, reason), name
            assert status_of(gateway, issuer.token())[0] == 200
            assert not any("panic" in line for line in gateway.lines)


def jose_tokens(issuer):
    """Tokens that jose (npm) makes, by their algorithms, with their public keys."""
    script = """
      const { generateKeyPair, exportJWK, SignJWT } = require("jose");
      (async () => {
        const { claims, algorithms } = JSON.parse(require("fs").readFileSync(0));
        const made = {};
        for (const alg of algorithms) {
          const { publicKey, privateKey } = await generateKeyPair(alg, { crv: alg === "EdDSA" ? "Ed25519" : undefined });
          const jwk = { ...(await exportJWK(publicKey)), kid: `jose-${alg}`, alg };
          made[alg] = { jwk, token: await new SignJWT(claims).setProtectedHeader({ alg, kid: jwk.kid }).sign(privateKey) };
        }
        console.log(JSON.stringify(made));
      })();
    """
    wanted = json.dumps({"claims": issuer.claims(), "algorithms": ALGORITHMS})
    environment = {**os.environ, "NODE_PATH": str(CACHE / "node" / "node_modules")}
    run = subprocess.run(["node", "-e", script], input=wanted, capture_output=True, text=True, env=environment, check=True)
    return json.loads(run.stdout)


ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]


def test_tokens_of_other_libraries_are_accepted_where_their_algorithm_is_listed():
    with Issuer(*(Key(f"py-{name}", name) for name in ALGORITHMS)) as issuer:
        of_jose = jose_tokens(issuer)
        listed = {"keys": [key.jwk() for key in issuer.keys] + [made["jwk"] for made in of_jose.values()]}
        issuer.answer = lambda handler: send(handler, json.dumps(listed).encode())
        tokens = {name: [of_jose[name]["token"], issuer.token(key=key)] for name, key in zip(ALGORITHMS, issuer.keys)}
        with guarded(issuer, issuer.config(algorithms=f"[{', '.join(ALGORITHMS)}]")) as gateway:
            for name in ALGORITHMS:
                for token in tokens[name]:
                    assert status_of(gateway, token)[0] == 200, name
            # ES256 signs with two numbers of 32 bytes (RFC 7518, section 3.4), as Go does it, and not in DER.
            es256 = issuer.keys[ALGORITHMS.index("ES256")]
            signed, _, signature = tokens["ES256"][1].rpartition(".")
            der = es256.private.sign(signed.encode(), ECDSA(hashes.SHA256()))
            assert len(signature) == 86 and status_of(gateway, f"{signed}.{b64(der)}")[0] == 401
        with guarded(issuer, issuer.config()) as gateway:
            for name in ALGORITHMS:
                expected = 200 if name in ("RS256", "ES256", "EdDSA") else 401
                assert [status_of(gateway, token)[0] for token in tokens[name]] == [expected] * 2, name


def test_the_holder_is_a_principal_like_a_key():
    with Issuer() as issuer:
        config = issuer.config(
            """[
              {when: {sub: "system:serviceaccount:evals:*", /kubernetes.io/namespace: evals}, permissions: [read],
               rate_limits: [{requests: 2, per: 1h, burst: 2}]},
              {when: {groups: [admins, ops]}, permissions: [read, write], routes: [all], rate_limits: none},
              {when: {sub: "*"}, permissions: [write]}]""",
            name="email",
        ) + "\nself_service: true"
        with guarded(issuer, config) as gateway:
            namespace = {"kubernetes.io": {"namespace": "evals"}}
            token = lambda subject, **more: issuer.token(f"system:serviceaccount:evals:{subject}", **namespace, **more)
            a = lambda: token("a", email="a@example.com")
            status, body = status_of(gateway, a(), headers=[("X-Bearward-Key-Id", "key_forged")])
            head = json.loads(body)["head"].lower()
            identity = dict(line.split(": ", 1) for line in head.split("\r\n") if line.startswith("x-bearward-key"))
            assert status == 200 and identity["x-bearward-key-name"] == "a@example.com"
            assert identity["x-bearward-key-id"].startswith("jwt_") and len(identity["x-bearward-key-id"]) == 14
            assert "authorization" not in head and "eyj" not in head
            # The limit is that of the holder, whichever token it has, and not that of another one.
            assert status_of(gateway, a())[0] == 200
            status, body = status_of(gateway, a())
            assert (status, json.loads(body)["error"]["code"]) == (429, "RATE_LIMIT_EXCEEDED")
            assert status_of(gateway, token("b"))[0] == 200
            # The first identity that matches counts.
            for _ in range(4):
                assert status_of(gateway, issuer.token("someone", groups=["x", "ops"]))[0] == 200
            status, body = status_of(gateway, issuer.token("someone", groups=["x"]))
            assert (status, json.loads(body)["error"]["code"]) == (403, "INSUFFICIENT_PERMISSIONS")
            status, body = status_of(gateway, a(), "/.bearward/me")
            own = json.loads(body)
            assert status == 200 and own["id"].startswith("jwt_") and own["expires_at"], body
            shown = gateway.admin_status()["identities"]
            assert shown["issuers"][0]["kinds"] == "1 EC P-256" and shown["holders"] == 3
            assert {holder["name"] for holder in shown["latest"]} >= {"a@example.com", None}
            # A key goes on as before, and a bad one is no token.
            assert status_of(gateway, gateway.tokens["reader"])[0] == 200
            assert status_of(gateway, "sk-something")[0] == 401


def test_an_issuer_changes_its_keys_under_load_and_no_request_fails():
    old, new = Key("old"), Key("new", "RS256")
    with Issuer(old) as issuer, guarded(issuer) as gateway:
        first, stop, failed, done = issuer.token(), threading.Event(), [], []
        current = [old]
        assert status_of(gateway, first)[0] == 200

        def load(worker):
            count = 0
            while not stop.is_set():
                count += 1
                token = issuer.token(f"system:serviceaccount:evals:{worker}-{count % 7}", key=current[0])
                status, body = status_of(gateway, token)
                done.append(status)
                if status != 200:
                    failed.append((status, body))

        threads = [threading.Thread(target=load, args=(worker,)) for worker in range(8)]
        [thread.start() for thread in threads]
        wait_for("the load", lambda: len(done) > 200)
        issuer.keys = [old, new]
        current[0] = new
        before = len(done)
        wait_for("tokens of the new key", lambda: len(done) > before + 400)
        assert failed == []
        stop.set()
        [thread.join() for thread in threads]
        # The old key goes. A token with an unknown key makes bearward ask, at most once in ten seconds.
        issuer.keys = [new]
        assert issuer.fetched() == 2, "one at the start, and one for the first token of the new key"
        wait_for("the old key is gone", lambda: status_of(gateway, issuer.token(key=Key("other")))[0] == 401 and issuer.fetched() == 3, 20)
        wait_for("the old key verifies nothing", lambda: status_of(gateway, first)[0] == 401)
        assert status_of(gateway, issuer.token(key=new))[0] == 200
        assert failed == []


def has_left(handler, seconds):
    """Whether the client closes its connection within some time."""
    readable, _, _ = select.select([handler.connection], [], [], seconds)
    return bool(readable)


def never(handler):
    """Accepts a request, and answers nothing."""
    has_left(handler, 30)


def slowly(handler):
    """Answers one byte after the other."""
    handler.send_response(200)
    handler.send_header("content-length", "100000")
    handler.end_headers()
    while not has_left(handler, 0.05):
        handler.wfile.write(b"{")


def huge(handler):
    """Answers 10 MB that begin like a set of keys."""
    body = b'{"keys":[' + b'{"kty":"RSA","n":"' + b"A" * 10_000_000 + b'"}]}'
    send(handler, body)


MISBEHAVIOURS = {
    "away": None,
    "silent": never,
    "slow": slowly,
    "garbage": lambda handler: send(handler, b"<html>\xff\x00"),
    "huge": huge,
    "an error": lambda handler: send(handler, b"oops", 500),
    "a redirect": lambda handler: send(handler, b"", 302, {"location": "https://attacker.example/keys"}),
    "no keys in it": lambda handler: send(handler, b'{"keys": 7}'),
}


def misbehaves(kind):
    """An issuer that has given its keys once misbehaves afterwards."""
    with Issuer() as issuer, guarded(issuer, issuer.config(timeout="1s", refresh="1s", max_stale="1h")) as gateway:
        known = issuer.token()
        assert status_of(gateway, known)[0] == 200
        if kind == "away":
            issuer.server.shutdown()
            issuer.server.server_close()
        issuer.answer = MISBEHAVIOURS[kind]
        issuer.most = 0
        wait_for("the fault is told", lambda: gateway.admin_status()["identities"]["issuers"][0]["fault"])
        strangers = [issuer.token(key=Key(f"unknown-{number}")) for number in range(32)]
        others = [issuer.token(f"system:serviceaccount:evals:{number}") for number in range(32)]

        def timed(token):
            begun = time.monotonic()
            return status_of(gateway, token)[0], time.monotonic() - begun

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            unknown, fresh = [[pool.submit(timed, token) for token in tokens] for tokens in (strangers, others)]
            assert {future.result()[0] for future in unknown} == {401}
            assert {future.result()[0] for future in fresh} == {200}
        # Nobody waits longer than the issuer's time limit of 1 s. The rest is room for a busy machine.
        assert max(future.result()[1] for future in unknown + fresh) < 2.5
        assert status_of(gateway, known)[0] == 200
        assert issuer.most <= 1, "one request for the keys at a time"
        assert status_of(gateway, gateway.tokens["reader"])[0] == 200


@pytest.mark.parametrize("kind", MISBEHAVIOURS)
def test_known_tokens_go_on_while_their_issuer_misbehaves(kind):
    misbehaves(kind)


def test_keys_that_were_confirmed_too_long_ago_verify_nothing():
    with Issuer() as issuer, guarded(issuer, issuer.config(timeout="1s", refresh="1s", max_stale="3s")) as gateway:
        token = issuer.token()
        assert status_of(gateway, token)[0] == 200
        issuer.answer = lambda handler: send(handler, b"", 503)
        wait_for("the keys are too old", lambda: status_of(gateway, token)[0] == 503)
        status, body = status_of(gateway, token)
        assert json.loads(body)["error"]["code"] == "KEY_STORE_UNAVAILABLE"
        assert not gateway.admin_status()["identities"]["issuers"][0]["are_used"]
        issuer.answer = None
        wait_for("the issuer is back", lambda: status_of(gateway, token)[0] == 200, 70)


def test_a_start_without_the_issuer_lets_no_token_in_and_keys_go_on():
    with Issuer() as issuer:
        issuer.answer = lambda handler: send(handler, b"", 503)
        with guarded(issuer, issuer.config(timeout="1s")) as gateway:
            status, body = status_of(gateway, issuer.token())
            assert (status, json.loads(body)["error"]["code"]) == (503, "KEY_STORE_UNAVAILABLE")
            assert status_of(gateway, gateway.tokens["reader"])[0] == 200
            issuer.answer = None
            wait_for("the issuer is there", lambda: status_of(gateway, issuer.token())[0] == 200, 30)


@contextlib.contextmanager
def guarded_with_guesses(issuer, attempts):
    """bearward that takes a key beside a token. With so long a time limit, the issuer's keys may always be asked for once more."""
    auth = issuer.config(timeout="30s").removesuffix("}") + ", headers: [authorization, x-api-key], conflict: any}"
    with guarded(issuer, auth, more=f"failed_attempts: {{per_address: {attempts}, per: 1h}}") as gateway:
        yield gateway


def test_a_guess_beside_a_token_of_an_unknown_key_counts_once():
    with Issuer() as issuer, guarded_with_guesses(issuer, 2) as gateway:
        unknown = issuer.token(key=Key("unknown"))
        with_token = lambda guess: status_of(gateway, unknown, headers=[("X-Api-Key", guess)])[0]
        assert with_token("guess-1") == 401
        assert ask(gateway.port, "GET", "/v1/models", [("X-Api-Key", "guess-2")])[0] == 401
        assert ask(gateway.port, "GET", "/v1/models", [("X-Api-Key", "guess-3")])[0] == 429
        suspected = lambda: [line for line in map(json.loads, list(gateway.lines)) if line.get("event") == "unknown_credential_beside_key"]
        wait_for("the audit names the guess", lambda: len(suspected()) == 1)


def test_what_was_not_looked_up_is_a_new_guess_from_elsewhere():
    forwarded = "trusted_proxies: [127.0.0.0/8]\n"
    with Issuer() as issuer:
        auth = issuer.config(timeout="30s").removesuffix("}") + ", headers: [authorization, x-api-key], conflict: any}"
        with guarded(issuer, auth, more=f"{forwarded}failed_attempts: {{per_address: 1, per: 1h}}") as gateway:
            unknown = issuer.token(key=Key("unknown"))

            def guessed(address, guess, *headers):
                more = [("X-Forwarded-For", address), ("X-Api-Key", guess), *headers]
                # The keys are asked for every 10 s at most, and few tokens of a blocked address cause that.
                return ask(gateway.port, "GET", "/v1/models", more, timeout=30)[0]

            beside = ("Authorization", f"Bearer {unknown}")
            assert guessed("192.0.2.1", "used-up") == 401
            # This address is blocked, so its guess is looked up neither before nor after the wait.
            assert guessed("192.0.2.1", "guess", beside) == 429
            assert guessed("192.0.2.2", "guess", beside) in (401, 429)
            assert guessed("192.0.2.2", "another") == 429


def test_a_guess_counts_although_its_client_leaves_during_the_wait_for_keys():
    with Issuer() as issuer, guarded_with_guesses(issuer, 1) as gateway:
        unknown = issuer.token(key=Key("unknown"))
        asked, goes_on = threading.Event(), threading.Event()

        def held(handler):
            asked.set()
            goes_on.wait(30)
            issuer.serve(handler)

        issuer.answer = held
        with socket.create_connection(("127.0.0.1", gateway.port)) as client:
            head = f"GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {unknown}\r\nX-Api-Key: guess-1\r\n\r\n"
            client.sendall(head.encode())
            assert asked.wait(20)
        assert ask(gateway.port, "GET", "/v1/models", [("X-Api-Key", "guess-2")])[0] == 429
        goes_on.set()


@pytest.mark.parametrize("change", ["token", "permission", "identity"])
def test_open_streams_end_although_their_issuer_is_away(tmp_path, change):
    denied = tmp_path / "denied.yaml"
    denied.write_text("jti: []\n")
    with Issuer() as issuer:
        fields = {"timeout": "1s", "refresh": "1s", "max_stale": "2s"}
        config = lambda **more: issuer.config(**fields, **more).removesuffix("}") + f", deny: {denied}}}"
        keys = "keys: {path: KEYS, cut_open_streams: true}\n"
        with guarded(issuer, config(), open_stream, more=keys) as gateway:
            tokens = {name: issuer.token(f"system:serviceaccount:evals:{name}", jti=name) for name in ("stays", "goes")}
            connections = {name: http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=40) for name in tokens}
            answers = {}
            for name, connection in connections.items():
                connection.request("GET", "/stream", headers={"Authorization": f"Bearer {tokens[name]}"})
                answers[name] = connection.getresponse()
                assert answers[name].read1(64)
            issuer.answer = lambda handler: send(handler, b"", 503)
            wait_for("the keys are too old", lambda: not gateway.admin_status()["identities"]["issuers"][0]["are_used"])
            stays = '{when: {sub: "system:serviceaccount:evals:stays"}, permissions: [read]}'
            goes = {"permission": '{when: {sub: "system:serviceaccount:evals:*"}, permissions: [write]}', "identity": '{when: {sub: "other"}, permissions: [read]}'}
            if change == "token":
                denied.write_text("jti: [goes]\n")
            else:
                after = config(identities=f"[{stays}, {goes[change]}]")
                assert config() in gateway.config_text
                (gateway.path / "bearward.yaml").write_text(gateway.config_text.replace(config(), after))
            gateway.reload()
            with contextlib.suppress(http.client.IncompleteRead):
                answers["goes"].read()
            # The keys being away is no reason to end a stream.
            assert not select.select([connections["stays"].sock], [], [], 0)[0]
            assert status_of(gateway, tokens["stays"])[0] == 503
            issuer.answer = None
            [connection.close() for connection in connections.values()]


def open_stream(side, request):
    """Answers with an event, and keeps the stream open until bearward leaves."""
    if b"/stream" not in request:
        return echo(side, request)
    side.sendall(SSE + chunk(b"data: x\n\n"))
    select.select([side], [], [], 60)
    return False


def test_denied_tokens_and_holders_are_refused_as_soon_as_the_file_says_so(tmp_path):
    denied = tmp_path / "denied.yaml"
    denied.write_text("jti: []\n")

    with Issuer() as issuer:
        config = issuer.config().removesuffix("}") + f", deny: {denied}}}"
        keys = "keys: {path: KEYS, cut_open_streams: true}\n"
        with guarded(issuer, config, open_stream, more=keys) as gateway:
            one, two = issuer.token("system:serviceaccount:evals:a", jti="one"), issuer.token("system:serviceaccount:evals:b", jti="two")
            ended = {}

            def read(name, token):
                connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
                connection.request("GET", "/stream", headers={"Authorization": f"Bearer {token}"})
                answer = connection.getresponse()
                with contextlib.suppress(Exception):
                    while answer.read(64):
                        pass
                ended[name] = time.time()

            last = issuer.token("system:serviceaccount:evals:c", exp=int(time.time()) - 24)
            cases = [("one", one), ("two", two), ("ends", last)]
            threads = [threading.Thread(target=read, args=(name, token)) for name, token in cases]
            [thread.start() for thread in threads]
            wait_for("the streams are open", lambda: gateway.admin_status()["requests_in_flight"] == 3)
            # A file that is written badly, or cut, changes nothing.
            denied.write_text("jti: [one\n")
            assert gateway.reload()["error"]["code"] == "RELOAD_REFUSED"
            assert [status_of(gateway, token)[0] for token in (one, two)] == [200, 200]
            denied.write_text("")
            assert gateway.reload()["error"]["code"] == "RELOAD_REFUSED"
            assert [status_of(gateway, token)[0] for token in (one, two)] == [200, 200]
            denied.write_text("jti: [one]\n")
            assert gateway.reload()["data"]["identities"] == "applied"
            assert [status_of(gateway, token)[0] for token in (one, two)] == [401, 200]
            wait_for("the denied stream is cut", lambda: "one" in ended)
            assert "two" not in ended
            # At the end of a token, with the leeway of 30 s, its stream is cut too.
            wait_for("the stream of the token that ends is cut", lambda: "ends" in ended, 20)
            assert "two" not in ended
            denied.write_text("jti: []\nsub: ['system:serviceaccount:evals:b']\n")
            gateway.reload()
            assert [status_of(gateway, token)[0] for token in (one, two)] == [200, 401]
            wait_for("the stream of the denied holder is cut", lambda: "two" in ended)
            [thread.join() for thread in threads]


def test_keys_in_a_file_are_reloaded(tmp_path):
    file, key = tmp_path / "jwks.json", Key("one")
    with Issuer(key) as issuer:
        file.write_bytes(issuer.document())
        with guarded(issuer, issuer.config(jwks=f"{{file: {file}}}")) as gateway:
            token = issuer.token()
            assert status_of(gateway, token)[0] == 200 and issuer.requests == []
            file.write_text("{")
            assert "identities" in json.dumps(gateway.reload())
            assert status_of(gateway, token)[0] == 200
            issuer.keys = [Key("one")]
            file.write_bytes(issuer.document())
            gateway.reload()
            assert status_of(gateway, token)[0] == 401
            assert status_of(gateway, issuer.token())[0] == 200


@pytest.mark.parametrize("kind", ["directory", "pipe", "missing"])
def test_a_list_of_denied_tokens_that_is_no_file_holds_up_no_other_file(tmp_path, kind):
    keys, denied = tmp_path / "jwks.json", tmp_path / "denied.yaml"
    denied.write_text("jti: [denied]\n")
    with Issuer() as issuer:
        keys.write_bytes(issuer.document())
        config = issuer.config(jwks=f"{{file: {keys}}}").removesuffix("}") + f", deny: {denied}}}"
        with guarded(issuer, config) as gateway:
            old = issuer.token()
            assert status_of(gateway, old)[0] == 200
            denied.unlink()
            {"directory": denied.mkdir, "pipe": lambda: os.mkfifo(denied), "missing": lambda: None}[kind]()
            issuer.keys = [Key("two")]
            keys.write_bytes(issuer.document())
            assert gateway.reload()["error"]["code"] == "RELOAD_REFUSED"
            assert [status_of(gateway, token)[0] for token in (old, issuer.token())] == [401, 200]
            assert status_of(gateway, issuer.token(jti="denied"))[0] == 401


def command(gateway, *args, stdin=""):
    """Output and exit status of a command with the configuration of a gateway."""
    run = subprocess.run([binary(), *args, "--config", str(gateway.path / "bearward.yaml")], input=stdin, capture_output=True, text=True)
    return run.stdout + run.stderr, run.returncode


def test_commands_say_what_comes_of_an_issuer_and_of_a_token():
    with Issuer(Key("one"), Key("weak", "RS256", bits=1024)) as issuer, guarded(issuer) as gateway:
        out, code = command(gateway, "check")
        assert code == 0 and "1 EC P-256" in out and "an RSA key of 1024 bits" in out, out
        out, code = command(gateway, "explain", "GET", "/v1/models", "--jwt", stdin=issuer.token() + "\n")
        assert code == 0 and "forwarded" in out and "jwt_" in out, out
        out, code = command(gateway, "explain", "GET", "/v1/models", "--jwt", stdin=issuer.token(aud="billing"))
        assert "token_audience_other" in out and "401 INVALID_API_KEY" in out, out
        issuer.answer = lambda handler: send(handler, b"", 503)
        out, code = command(gateway, "check")
        assert code == 0 and "can't be had" in out and "answers 503" in out, out
        assert "eyJ" not in out
        # What a running process says matches.
        status, body = status_of(gateway, issuer.token(aud="billing"))
        assert status == 401 and json.loads(body)["error"]["details"]["key_id"].startswith("jwt_")


def test_a_service_account_of_kubernetes_reaches_the_model(tmp_path):
    """As docs/identities.md says: a stub of the API server has the keys, asks for a token, and is known by its authority."""
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text("bearwards-own-token\n")
    with Issuer(Key("cluster", "RS256"), tls=True) as cluster:
        cluster.authority.cert_pem.write_to_path(str(account / "ca.crt"))

        def api_server(handler):
            if handler.headers.get("authorization") != "Bearer bearwards-own-token":
                return send(handler, b'{"kind":"Status","code":403}', 403)
            cluster.serve(handler)

        cluster.answer = api_server
        more = {"ca": account / "ca.crt", "token_file": account / "token", "jwks": None}
        identities = """[{when: {sub: "system:serviceaccount:evals:*"}, permissions: [read], rate_limits: [{requests: 60, per: 1m}]}]"""
        with guarded(cluster, cluster.config(identities, **more)) as gateway:
            pod = {"kubernetes.io": {"namespace": "evals", "pod": {"name": "runner-0"}, "serviceaccount": {"name": "runner"}}}
            token = cluster.token(aud=["model"], **pod)
            assert status_of(gateway, token)[0] == 200
            assert [path for path, _ in cluster.requests] == ["/.well-known/openid-configuration", "/keys"]
            assert status_of(gateway, cluster.token("system:serviceaccount:other:runner", aud=["model"]))[0] == 401
            # The token of the pod for the API server itself is for another audience.
            assert status_of(gateway, cluster.token(aud=["https://kubernetes.default.svc"]))[0] == 401
        # Another authority signs the server's certificate: nothing is believed.
        trustme.CA().cert_pem.write_to_path(str(account / "ca.crt"))
        with guarded(cluster, cluster.config(identities, timeout="2s", **more)) as gateway:
            assert status_of(gateway, token)[0] == 503
