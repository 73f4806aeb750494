"""bearward's real binary as a process, for tests and measurements."""

import errno
import json
import os
import pathlib
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request

import trustme

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = ROOT / "tests" / ".cache"


def binary():
    """Path of the binary under test: with test hooks if `make e2e` built it, otherwise without."""
    for candidate in (os.environ.get("BEARWARD"), "target/e2e-hooks/e2e/bearward", "target/e2e/bearward"):
        if candidate and (ROOT / candidate).exists():
            return str(ROOT / candidate)
    raise SystemExit("no binary: run `make e2e`, which builds it")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process(subprocess.Popen):
    """A process whose exec is tried once more if it fails with EFAULT.

    The program and its arguments are sound then: with many processes starting from many threads,
    Linux was seen to answer EFAULT once in some thousand starts. conftest.py puts this class in the
    place of `subprocess.Popen`, so that it holds for `subprocess.run` too.
    """

    def __init__(self, *args, **options):
        try:
            super().__init__(*args, **options)
        except OSError as error:
            if error.errno != errno.EFAULT:
                raise
            super().__init__(*args, **options)


def launch(command, **options):
    """A process of a test."""
    return Process(command, **options)


def wait_for(condition, holds, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError(f"timed out: {condition() if callable(condition) else condition}")


def is_listening(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


def issue(authority, path, *names, ends=None):
    """New certificate: writes tls.crt and tls.key into a directory. `ends` is a datetime."""
    certificate = authority.issue_cert(*(names or ("localhost", "127.0.0.1")), not_after=ends)
    certificate.private_key_pem.write_to_path(str(path / "tls.key"))
    certificate.cert_chain_pems[0].write_to_path(str(path / "tls.crt"))


class Gateway:
    """bearward in front of `upstream`: a loopback port, or endpoints in configuration syntax.

    `keys`: name → arguments of `bearward keys create`. `admin`: with admin listener and token.
    `listener`: address to listen on. `fds`: sockets that the process inherits. `plain_too`: also
    listens on `plain_port`, without TLS. `before_start`: called in the new process before exec.
    `more_upstreams`: upstreams beside `upstream`, in configuration syntax. `tls_fields`: more fields of the
    listener's `tls`, each with a comma before it.
    """

    def __init__(
        self, upstream, keys, tls=False, config="", environment=None, admin=False, listener="127.0.0.1:0", fds=(), fields="",
        plain_too=False, before_start=None, more_upstreams="", tls_fields="",
    ):
        self.directory = tempfile.TemporaryDirectory(prefix="bearward-e2e-")
        path = self.path = pathlib.Path(self.directory.name)
        self.listener, self.fds, self.environment = listener, fds, environment or {}
        self.tokens = {name: self.create(path / "keys.yaml", name, *args) for name, args in keys.items()}
        tls_lines, self.ca = "", None
        if tls:
            self.authority = trustme.CA()
            issue(self.authority, path)
            self.ca = str(path / "ca.crt")
            self.authority.cert_pem.write_to_path(self.ca)
            tls_lines = f", tls: {{certificate: {path / 'tls.crt'}, private_key: {path / 'tls.key'}{tls_fields}}}"
        endpoints = f"http://127.0.0.1:{upstream}" if isinstance(upstream, int) else upstream
        if admin:
            (path / "admin.token").write_text("the-admin-token\n")
        admin_lines = f"admin: {{address: 127.0.0.1:0, token_file: {path / 'admin.token'}}}" if admin else "admin: off"
        if "failed_attempts" not in config:
            # Tests send bad keys on purpose, more often than the default limit per address.
            config += "\nfailed_attempts: off\n"
        keys_lines = f"keys: {{path: {path / 'keys.yaml'}}}\n" if "keys:" not in config else ""
        self.plain_port = free_port() if plain_too else None
        plain = f"{{address: 127.0.0.1:{self.plain_port}}}, " if plain_too else ""
        self.config_text = (
            f"listeners: [{plain}{{address: {listener}{tls_lines}}}]\n"
            f"upstreams: [{{name: model, endpoints: [{endpoints}]{fields}}}, {more_upstreams}]\n"
            f"{keys_lines}{admin_lines}\n{config.replace('KEYS', str(path / 'keys.yaml'))}"
        )
        (path / "bearward.yaml").write_text(self.config_text)
        self.scheme, self.before_start = "https" if tls else "http", before_start
        self.start()

    def start(self):
        """Starts the process, for the first time or again."""
        self.lines, self.port, self.admin_port = [], None, None
        command = self.command("run", "--config", str(self.path / "bearward.yaml"))
        environment = {**os.environ, **self.environment}
        prepare = self.before_start
        if self.fds:
            environment["LISTEN_FDS"] = str(len(self.fds))
            descriptors = [fd.fileno() for fd in self.fds]

            def prepare():
                for number, descriptor in enumerate(descriptors):
                    os.dup2(descriptor, 3 + number)
                    os.set_inheritable(3 + number, True)

            # LISTEN_PID must be the process's own id: a shell knows its id and then execs bearward.
            command = ["sh", "-c", 'LISTEN_PID=$$ exec "$0" "$@"', *command]
        self.process = launch(
            command, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=prepare, close_fds=not self.fds
        )
        self.reader = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        self.reader.start()
        wait_for("the gateway listens", lambda: self.is_ready or self.process.poll() is not None)
        assert self.port or "unix:" in self.listener, self.lines
        self.url = f"{self.scheme}://localhost:{self.port}"

    def command(self, *args):
        """Command that runs bearward with these arguments."""
        return [binary(), *args]

    @property
    def is_ready(self):
        return any('"ready"' in line for line in self.lines)

    def _read(self, process):
        lines = self.lines
        for line in process.stderr:
            # The last line of a process that was killed may be cut.
            event = json.loads(line) if line.startswith("{") and line.endswith("}\n") else {}
            if event.get("message") in ("listening", "admin listening") and ":" in event["address"]:
                port = event["address"].rsplit(":", 1)[1]
                if port.isdigit():
                    setattr(self, "port" if event["message"] == "listening" else "admin_port", int(port))
            lines.append(line)

    def reload(self):
        """Runs `bearward reload`; returns its JSON output."""
        command = [binary(), "reload", "--json", "--admin", f"127.0.0.1:{self.admin_port}"]
        command += ["--token-file", str(self.path / "admin.token")]
        return json.loads(subprocess.run(command, capture_output=True, text=True, timeout=30).stdout)

    def admin_status(self):
        """Data of `/api/v1/status` of the admin listener."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/api/v1/status", timeout=10) as answer:
            return json.load(answer)["data"]

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
        # The last lines of the process arrive only after it has ended.
        self.reader.join(timeout=10)
        self.process.stderr.close()
        self.directory.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
