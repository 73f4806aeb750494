"""Panics in the real binary, which `make e2e` builds with test hooks: in a request, and in a thread."""

import httpx
import pytest
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


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("worker-0", "the thread worker-0 has ended"),
        ("reload", "the thread reload has ended"),
        ("listener", "a listener has ended"),
    ],
)
def test_a_vital_thread_that_ends_ends_the_process(llama, tmp_path, name, reason):
    due = tmp_path / "due"
    hook = {"BEARWARD_TEST_END_THREAD": f"{name}:{due}"}
    with Gateway(llama, {"reader": ["--permissions", "read"]}, environment=hook) as gateway:
        headers = {"Authorization": f"Bearer {gateway.tokens['reader']}"}
        assert httpx.get(f"{gateway.url}/v1/models", headers=headers).status_code == 200
        due.touch()
        try:
            # A worker and the listener take up a connection; the reload looks at its files by itself.
            httpx.get(f"{gateway.url}/v1/models", headers=headers)
        except httpx.TransportError:
            pass
        assert gateway.process.wait(timeout=30) == 1
    assert any("a test asked for this panic" in line for line in gateway.lines)
    assert any("the process can't go on" in line and reason in line for line in gateway.lines)
