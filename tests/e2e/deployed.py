"""What `deploy/` holds, as tests need it: manifests rendered, and bearward's configurations with their paths and ports mapped
to what is there."""

import contextlib
import functools
import http.client
import json
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

from gateway import ROOT, Gateway, binary, free_port, issue, wait_for

DEPLOY = ROOT / "deploy"
TOOLS = pathlib.Path(sys.executable).parent
KUSTOMIZATIONS = ("sidecar", "gateway")
CHART = DEPLOY / "helm" / "bearward"
# The least that the chart's sidecar needs.
MODEL = {"name": "model", "image": "llama:1", "args": ["--host", "127.0.0.1", "--port", "8000"]}
SIDECAR = {
    "mode": "sidecar",
    "sidecar": {"containers": [MODEL]},
    "config": {"upstreams": [{"name": "model", "endpoints": ["http://127.0.0.1:8000"]}]},
}
VALUES = {
    "gateway": {},
    "fixed": {"autoscaling": {"enabled": False}, "image": {"digest": "sha256:" + "0" * 64}},
    "sidecar": SIDECAR,
}
# A model server that has its own ways, and a configuration that names more files.
OWN_WAYS = SIDECAR | {
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
    """The manifests of a kustomization, as text."""
    command = [TOOLS / "kubectl", "kustomize", DEPLOY / "kubernetes" / name]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


@functools.cache
def charted(name):
    """The manifests of the chart with these VALUES, as text."""
    with helm_python.Chart.load(CHART) as chart:
        values = OWN_WAYS if name == "own ways" else VALUES[name]
        rendered = chart.render(values, name="demo", namespace="default")
    return "\n---\n".join(text for path, text in rendered.items() if path.endswith(".yaml") and text.strip())


MANIFESTS = [*((kustomized, name) for name in KUSTOMIZATIONS), *((charted, name) for name in VALUES)]


def objects(manifest, kind=None):
    """What manifests describe; of one kind where one is named."""
    render, name = manifest
    found = [one for one in yaml.safe_load_all(render(name)) if one]
    return [one for one in found if kind in (None, one["kind"])]


def configurations():
    """Each configuration of bearward in `deploy/`: where it stands, and its text."""
    found = {}
    for manifest in MANIFESTS:
        [config] = objects(manifest, "ConfigMap")
        found[f"{manifest[0].__name__} {manifest[1]}"] = config["data"]["config.yaml"]
    for path in sorted(DEPLOY.glob("**/*.yaml")):
        text = path.read_text()
        if re.search(r"(?m)^listeners:", text):
            found[str(path.relative_to(DEPLOY))] = text
    return found


class Files:
    """What configurations name: keys in a file and in a directory, a certificate, the admin token."""

    TOKEN = "4f1c0d9a7be2635814c9f0e2d7a6b35c"

    def __init__(self, root):
        self.root = root
        (root / "keys").mkdir(parents=True)
        self.key = Gateway.create(root / "keys", "reader", "--permissions", "read")
        (root / "keys.yaml").write_text("keys:\n- " + next((root / "keys").iterdir()).read_text().replace("\n", "\n  "))
        self.authority = trustme.CA()
        issue(self.authority, root, "localhost", "127.0.0.1", "api.example.com")
        self.authority.cert_pem.write_to_path(str(root / "ca.crt"))
        (root / "token").write_text(self.TOKEN)
        for path in (root / "keys.yaml", root / "token", root / "tls.key"):
            path.chmod(0o640)

    PATHS = {
        "/run/secrets/bearward/keys": "keys",
        "/run/secrets/bearward/tls/": "",
        "/run/secrets/bearward/admin/token": "token",
        "/etc/bearward/": "",
    }

    def mapped(self, text):
        """A configuration with its paths led here, and its own ports left to the system."""
        for path, here in self.PATHS.items():
            text = text.replace(path, f"{self.root}/{here}")
        return on_any_port(text)


def on_any_port(text):
    """A configuration whose listeners take ports that are free."""
    return re.sub(r"(address: ['\"]?[0-9.]+):\d+", r"\1:0", text)


def checked(text, directory):
    """What `bearward check` says of a configuration."""
    with tempfile.NamedTemporaryFile("w", dir=directory, suffix=".yaml") as file:
        file.write(text)
        file.flush()
        done = subprocess.run([binary(), "check", "--json", "--config", file.name], capture_output=True, text=True, timeout=30)
    return json.loads(done.stdout) if done.stdout else {"ok": False, "faults": [done.stderr]}


class Running(Gateway):
    """bearward with a configuration of `deploy/`, which has been mapped: its text, or the file that it is in."""

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


class Answering(socketserver.StreamRequestHandler):
    """Says ok to each request."""

    def handle(self):
        with contextlib.suppress(OSError):
            while self.rfile.readline():
                while self.rfile.readline() not in (b"\r\n", b""):
                    pass
                self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


@contextlib.contextmanager
def answering():
    """A model server; its port."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answering) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


class Busy:
    """A server on which everything happens that metrics tell of, and a Prometheus that scrapes it."""

    KEYS = {
        "reader": ["--permissions", "read"],
        "limited": ["--permissions", "read", "--rate", "1/1h/1"],
        "ending": ["--permissions", "read", "--expires-in", "3d"],
    }

    def __init__(self, directory, model):
        self.directory = directory
        # Every answer costs a line that is lost, and every request a span.
        config = (
            "log: {format: json, access_to: /dev/full}\n"
            "traces: {endpoint: 'http://127.0.0.1:1', sample: 1.0}\n"
            "routes: [{name: gone, paths: [/gone], permission: read, upstream: gone}, {name: all, paths: [/**], permission: read}]\n"
            "keys: {path: KEYS, max_age: 1ms}\n"
        )
        gone = "}, {name: gone, endpoints: [http://127.0.0.1:1]"
        self.gateway = Gateway(model, self.KEYS, tls=True, plain_too=True, admin=True, config=config, fields=gone)
        self.stopping = threading.Event()
        self.asking = threading.Thread(target=self.ask, daemon=True)
        self.port = free_port()
        shutil.copy(DEPLOY / "prometheus" / "rules.yaml", directory)
        # As deploy/prometheus/scrape.yaml has it, but for the address and the pace.
        scrape = (
            (DEPLOY / "prometheus" / "scrape.yaml")
            .read_text()
            .replace("127.0.0.1:9090", f"127.0.0.1:{self.gateway.admin_port}")
        )
        scrape = scrape.replace("/etc/prometheus/bearward.key", f"{self.gateway.path}/admin.token")
        pace = "global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}\n"
        (directory / "prometheus.yml").write_text(pace + scrape)

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
            self.happen()
        except BaseException:
            self.__exit__()
            raise
        return self

    def happen(self):
        """A change, and one that is refused, both after the first scrape."""

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
