"""A panic in a request of the real binary, which is built with its test hooks here."""

import httpx
from gateway import Gateway


def test_a_panic_costs_its_own_request_alone(llama):
    hook = {"BEARWARD_TEST_PANIC_ON": "/v1/models/fatal"}
    with Gateway(llama, {"reader": ["--permissions", "read"]}, environment=hook) as gateway:
        headers = {"Authorization": f"Bearer {gateway.tokens['reader']}"}
        with httpx.Client(headers=headers) as client:
            for _ in range(3):
                fatal = client.get(f"{gateway.url}/v1/models/fatal")
                assert (fatal.status_code, fatal.json()["error"]["code"]) == (500, "INTERNAL_ERROR")
                assert client.get(f"{gateway.url}/v1/models").status_code == 200
        assert any("a test asked for this panic" in line for line in gateway.lines)
