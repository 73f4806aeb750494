"""The real binary as a process, for tests and measurements."""

import json
import os
import pathlib
import socket
import subprocess
import tempfile
import threading
import time

import trustme

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = ROOT / "tests" / ".cache"


def binary():
    """The binary under test: with its test hooks where `make e2e` has built it, else without."""
    for candidate in (os.environ.get("BEARWARD"), "target/e2e-hooks/e2e/bearward", "target/e2e/bearward"):
        if candidate and (ROOT / candidate).exists():
            return str(ROOT / candidate)
    raise SystemExit("no binary: run `make e2e`, which builds it")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what, holds, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError(f"not in time: {what}")


def is_listening(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


class Gateway:
    """bearward in front of a port of loopback. `keys`: name → arguments of `bearward keys create`."""

    def __init__(self, upstream, keys, tls=False, config="", environment=None):
        self.directory = tempfile.TemporaryDirectory(prefix="bearward-e2e-")
        path = pathlib.Path(self.directory.name)
        self.tokens = {name: self.create(path / "keys.yaml", name, *args) for name, args in keys.items()}
        tls_lines, self.ca = "", None
        if tls:
            authority = trustme.CA()
            certificate = authority.issue_cert("localhost", "127.0.0.1")
            certificate.private_key_pem.write_to_path(str(path / "tls.key"))
            certificate.cert_chain_pems[0].write_to_path(str(path / "tls.crt"))
            self.ca = str(path / "ca.crt")
            authority.cert_pem.write_to_path(self.ca)
            tls_lines = f", tls: {{certificate: {path / 'tls.crt'}, private_key: {path / 'tls.key'}}}"
        (path / "bearward.yaml").write_text(
            f"listeners: [{{address: 127.0.0.1:0{tls_lines}}}]\n"
            f"upstreams: [{{name: model, endpoints: [http://127.0.0.1:{upstream}]}}]\n"
            f"keys: {{path: {path / 'keys.yaml'}}}\n"
            f"admin: off\n{config}"
        )
        self.lines = []
        self.process = subprocess.Popen(
            [binary(), "run", "--config", str(path / "bearward.yaml")],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.port = None
        threading.Thread(target=self._read, daemon=True).start()
        wait_for("the gateway listens", lambda: self.port or self.process.poll() is not None)
        assert self.port, self.lines
        self.url = f"{'https' if tls else 'http'}://localhost:{self.port}"

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line)
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("message") == "listening":
                self.port = int(event["address"].rsplit(":", 1)[1])

    @staticmethod
    def create(path, name, *args):
        command = [binary(), "keys", "create", "--keys", str(path), "--name", name, *args]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def rss_kib(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1])

    def close(self):
        self.process.kill()
        self.process.wait()
        self.directory.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
