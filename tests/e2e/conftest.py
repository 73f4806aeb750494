"""Shared fixtures: a real llama.cpp server, and bearward over TLS in front of it."""

import contextlib
import pathlib
import subprocess
import sys

import pytest

import tiny_model
from gateway import CACHE, Gateway, Process, free_port, wait_for

subprocess.Popen = Process
HERE = pathlib.Path(__file__).parent

KEYS = {
    "reader": ["--permissions", "read"],
    "writer": ["--permissions", "read,write"],
    "only-write": ["--permissions", "write"],
    # A burst of one request and one more every two seconds: a retry after Retry-After succeeds.
    "limited": ["--permissions", "read", "--rate", "30/1m/1"],
    "expired": ["--permissions", "read", "--expires-in", "1ms"],
}


@contextlib.contextmanager
def llama_server(*options):
    """Port and process of a real llama.cpp server with a tiny model. `options`: those of llama_server.py."""
    model = CACHE / "tiny.gguf"
    if not model.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        tiny_model.write(str(model.with_suffix(".part")))
        model.with_suffix(".part").rename(model)
    port = free_port()
    command = [sys.executable, str(HERE / "llama_server.py"), str(model), str(port), *options]
    log_path = CACHE / f"llama{''.join('-' + option for option in options)}.log"
    with open(log_path, "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)

    def is_healthy():
        assert server.poll() is None, log_path.read_text(errors="replace")
        answer = subprocess.run(["curl", "-sf", f"http://127.0.0.1:{port}/health"], capture_output=True)
        return answer.returncode == 0

    try:
        wait_for("llama.cpp is healthy", is_healthy, seconds=60)
        yield port, server
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="session")
def llama():
    """Port of a real llama.cpp server with a tiny model."""
    with llama_server() as (port, _):
        yield port


@pytest.fixture(scope="session")
def embedder():
    """Port of a real llama.cpp server that makes embeddings, and nothing else."""
    with llama_server("vectors", "embeddings") as (port, _):
        yield port


@pytest.fixture(scope="session")
def gateway(llama):
    """bearward over TLS in front of llama.cpp."""
    with Gateway(llama, KEYS, tls=True) as gateway:
        yield gateway
