"""Tokens of issuers where other proxies ask, and where several replicas share limits: as keys are."""

import json

import pytest

from fleet import Stub, fleet
from gateway import wait_for
from issuer import Issuer
from proxies import DOORS, Doors, Proxy, model, send
from redis_server import Redis
from test_jwt import status_of

ROUTES = "routes: [{name: all, paths: ['/v1/**'], permission: read}]\n"
LIMITED = '[{when: {sub: "system:serviceaccount:evals:*"}, permissions: [read], rate_limits: [{requests: 4, per: 1h, burst: 4}]}]'


def bearer(token):
    return [("Authorization", f"Bearer {token}")]


@pytest.mark.parametrize("name", DOORS)
def test_proxies_that_ask_get_the_same_answers_for_tokens(model, name):
    with Issuer() as issuer:
        with Doors(model, {"reader": ["--permissions", "read"]}, config=f"failed_attempts: off\n{ROUTES}{issuer.config(LIMITED)}\n", doors={name: DOORS[name]}) as gateway:
            with Proxy(name, model, gateway.doors[name]) as proxy:
                token = issuer.token(f"system:serviceaccount:evals:{name}")
                status, _, body = send(proxy.port, "GET", "/v1/x", bearer(token))
                assert status == 200
                sent = {header.lower(): value for header, value in json.loads(body)["headers"]}
                assert sent["x-bearward-key-id"].startswith("jwt_")
                assert sent["x-bearward-key-name"] == f"system:serviceaccount:evals:{name}"
                assert "authorization" not in sent
                assert send(proxy.port, "GET", "/v1/x", bearer(issuer.token(aud="billing")))[0] == 401
                assert send(proxy.port, "GET", "/v1/x", bearer(issuer.token("someone")))[0] == 401
                # The limit of the holder is the same behind the proxy and at bearward itself.
                statuses = [send(proxy.port, "GET", "/v1/x", bearer(issuer.token(f"system:serviceaccount:evals:{name}")))[0] for _ in range(4)]
                assert statuses == [200, 200, 200, 429]
                assert status_of(gateway, token, "/v1/x")[0] == 429


def test_replicas_have_the_limit_of_a_holder_together():
    with Redis() as redis, Issuer() as issuer, Stub() as stub:
        # All replicas name a holder by the same secret.
        config = issuer.config(LIMITED.replace("4", "40"))
        with fleet(3, stub.port, redis.url, "max_concurrent: 9", config=config, secret="a-secret-of-32-characters-or-more") as (replicas, _):
            wait_for(
                "all replicas reach redis",
                lambda: all(any("server for shared limits is available" in line for line in replica.lines) for replica in replicas),
            )
            statuses = []
            for round in range(30):
                for replica in replicas:
                    token = issuer.token("system:serviceaccount:evals:runner", jti=f"{round}-{replica.port}")
                    statuses.append(status_of(replica, token, "/x")[0])
            assert statuses.count(200) == 40 and statuses.count(429) == 50
            assert status_of(replicas[0], issuer.token("system:serviceaccount:evals:other"), "/x")[0] == 200
