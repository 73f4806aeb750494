"""Panic during a request in the real binary, which `make e2e` builds with test hooks."""

import httpx
from gateway import Gateway


def test_a_panic_fails_only_its_own_request(llama):
    hook = {"BEARWARD_TEST_PANIC_ON": "/v1/models/fatal"}
    with Gateway(llama, {"reader": ["--permissions", "read"]}, environment=hook) as gateway:
        headers = {"Authorization": f"Bearer {gateway.tokens['reader']}"}
        with httpx.Client(headers=headers) as client:
            for _ in range(3):
                fatal = client.get(f"{gateway.url}/v1/models/fatal")
                assert (fatal.status_code, fatal.json()["error"]["code"]) == (500, "INTERNAL_ERROR")
                assert client.get(f"{gateway.url}/v1/models").status_code == 200
        assert any("a test asked for this panic" in line for line in gateway.lines)
