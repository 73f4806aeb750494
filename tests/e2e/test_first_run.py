"""The first commands of a new user: `init`, `run` without anything, and `audit-upstream`."""

import base64
import contextlib
import json
import os
import pathlib
import pty
import re
import select
import shlex
import socket
import subprocess
import sys

import pytest
import yaml

from gateway import binary, free_port, launch, wait_for
from scripted import Scripted, json_answer

TOOLS = pathlib.Path(sys.executable).parent


def init(directory, *args, **options):
    """Runs `bearward init` in a directory, without a terminal."""
    command = [binary(), "init", *args]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30, **options)


def models(side, request):
    """A model server that has one model and tells what it is."""
    path = request.split()[1]
    if path == b"/v1/models":
        return side.sendall(json_answer('{"object": "list", "data": [{"id": "tiny", "owned_by": "vllm"}]}'))
    side.sendall(json_answer("{}", "404 Not Found"))


def serves(directory, upstream_port, listen, *args, scheme="http"):
    """Runs what `init` wrote, and returns the status and body of a request with its key and of one without."""
    done = init(directory, "--upstream", f"http://127.0.0.1:{upstream_port}", "--listen", listen, *args)
    assert done.returncode == 0, done.stderr
    key = done.stdout.strip()
    assert re.fullmatch(r"bwk_\w+", key) and key not in done.stderr
    config = directory / "bearward.yaml"
    config.write_text(config.read_text().replace("127.0.0.1:9090", f"127.0.0.1:{free_port()}"))
    checked = subprocess.run([binary(), "check"], cwd=directory, capture_output=True, text=True, timeout=30)
    assert checked.returncode == 0 and "warning" not in checked.stderr, checked.stderr
    process = launch([binary(), "run"], cwd=directory, stderr=subprocess.DEVNULL)
    try:
        port = listen.rsplit(":", 1)[1]
        curl = ["curl", "-sS", "-w", "\n%{http_code}"] + (["--cacert", "tls.crt"] if scheme == "https" else [])
        url = f"{scheme}://localhost:{port}/v1/models"

        def get(*args):
            done = subprocess.run([*curl, *args, url], cwd=directory, capture_output=True, text=True, timeout=20)
            return done.stdout.rsplit("\n", 1)[-1]

        wait_for("bearward answers", lambda: get() == "401")
        return get("-H", f"Authorization: Bearer {key}")
    finally:
        process.kill()
        process.wait()


def test_what_init_writes_runs_at_once(tmp_path):
    with Scripted(models) as model:
        assert serves(tmp_path, model.port, f"127.0.0.1:{free_port()}") == "200"
    written = yaml.safe_load((tmp_path / "bearward.yaml").read_text())
    assert written["routes"] == "vllm", "the server tells what it is"
    assert "tls" not in written["listeners"][0]
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == ["bearward.yaml", "keys.yaml"]
    assert (tmp_path / "keys.yaml").stat().st_mode & 0o777 == 0o600
    [key] = yaml.safe_load((tmp_path / "keys.yaml").read_text())["keys"]
    assert key["permissions"] == ["read"] and key["expires_at"]


def test_off_loopback_init_makes_a_certificate(tmp_path):
    with Scripted(models) as model:
        assert serves(tmp_path, model.port, f"0.0.0.0:{free_port()}", scheme="https") == "200"
    assert (tmp_path / "tls.key").stat().st_mode & 0o777 == 0o600
    told = subprocess.run(
        ["openssl", "x509", "-in", "tls.crt", "-noout", "-subject", "-ext", "subjectAltName", "-checkend", str(364 * 86400)],
        cwd=tmp_path, capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    # Clients on the network know the machine by its address; and some take no certificate of more than 398 days.
    assert told.returncode == 0 and "bearward" in told.stdout, told
    own = re.search(r"src ([\d.]+)", subprocess.run(["ip", "route", "get", "192.0.2.1"], capture_output=True, text=True).stdout)
    assert own is None or f"IP Address:{own[1]}" in told.stdout
    late = ["openssl", "x509", "-in", "tls.crt", "-noout", "-checkend", str(398 * 86400)]
    assert subprocess.run(late, cwd=tmp_path, capture_output=True, timeout=20).returncode == 1


def test_the_request_that_init_names_is_one_to_the_address_of_the_listener(tmp_path):
    for listen, asked in [
        ("192.0.2.2:8443", "curl --cacert {} https://192.0.2.2:8443/"),
        ("[2001:db8::2]:8443", "curl --cacert {} https://[2001:db8::2]:8443/"),
        ("0.0.0.0:8443", "curl --cacert {} https://localhost:8443/"),
        ("127.0.0.1:8080", "curl http://127.0.0.1:8080/"),
    ]:
        into = tmp_path / listen.replace(":", "-")
        done = init(tmp_path, "--upstream", "http://127.0.0.1:1", "--listen", listen, "--into", str(into))
        assert done.returncode == 0 and asked.format(shlex.quote(str(into / "tls.crt"))) in done.stderr, done.stderr
        assert "can't be asked what it is" in done.stderr and "set `routes`" in done.stderr


def test_init_for_ollama_names_the_host_that_ollama_answers(tmp_path):
    far = tmp_path / "far"
    args = ["--upstream", "https://ollama.example", "--routes", "ollama", "--into", str(far)]
    assert init(tmp_path, *args).returncode == 0
    assert "host" not in yaml.safe_load((far / "bearward.yaml").read_text())["upstreams"][0]
    for routes, host in (("ollama", "localhost"), ("vllm", None)):
        into = tmp_path / routes
        args = ["--upstream", "http://127.0.0.1:11434", "--routes", routes, "--into", str(into)]
        assert init(tmp_path, *args).returncode == 0
        config = yaml.safe_load((into / "bearward.yaml").read_text())
        assert config["upstreams"][0].get("host") == host
        into = tmp_path / f"{routes}-sidecar"
        args[-1] = str(into)
        assert init(tmp_path, "--for", "kubernetes", "--deployment", "model", *args).returncode == 0
        objects = list(yaml.safe_load_all((into / "kubernetes.yaml").read_text()))
        [text] = [value for item in objects if item["kind"] == "ConfigMap" for value in item["data"].values()]
        upstream = yaml.safe_load(text)["upstreams"][0]
        assert upstream.get("host") == host and upstream["endpoints"] == ["http://127.0.0.1:11434"]


@pytest.mark.parametrize("name", ["bearward.yaml", "keys.yaml"])
def test_init_overwrites_nothing(tmp_path, name):
    (tmp_path / name).write_text("mine")
    done = init(tmp_path)
    assert done.returncode == 1 and done.stdout == "" and f"{name} exists" in done.stderr
    assert "remove" not in done.stderr, "keys.yaml has the keys of all clients"
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "mine"


def test_init_refuses_what_it_can_not_write_well(tmp_path):
    for args in (
        ["--upstream", "ftp://x"],
        ["--listen", "8080"],
        ["--routes", "none"],
        ["--listen", "-a.example.com"],
        ["--for", "systemd", "--into", "/home/somebody"],
        ["--for", "systemd", "--into", "/var/lib/x/../../home/somebody"],
        ["--for", "systemd", "--into", "/opt/a b"],
        ["--for", "systemd", "--into", "/opt/a\nExecStartPre=/bin/x"],
        ["--listen", "a.example.com, b.example.com"],
        ["--for", "kubernetes", "--listen", "127.0.0.1:1"],
        ["--deployment", "model"],
        ["--for", "kubernetes", "--deployment", "a b"],
        ["--for", "kubernetes"],
        ["--for", "kubernetes", "--deployment", "a", "--namespace", "a.b"],
        ["--namespace", "a"],
        ["--for", "kubernetes", "--deployment", "a", "--upstream", "http://qwen:80"],
        ["--for", "kubernetes", "--deployment", "a", "--upstream", "unix:/run/x.sock"],
        ["--for", "kubernetes", "--deployment", "a", "--upstream", "http://0.0.0.0:8000"],
        ["--for", "kubernetes", "--deployment", "a", "--upstream", "http://127.0.0.1:8443"],
        ["--for", "kubernetes", "--deployment", "a", "--upstream", "http://127.0.0.1:9090"],
    ):
        done = init(tmp_path, *args)
        assert done.returncode in (2, 78) and done.stdout == "", (args, done)
    assert list(tmp_path.iterdir()) == []
    # Each kind of server is healthy at a path of its own.
    done = init(tmp_path, "--for", "kubernetes", "--deployment", "a", "--upstream", "http://127.0.0.1:7000", "--routes", "triton", "--into", "a")
    assert '"http://127.0.0.1:7000/v2/health/ready"' in done.stderr and "--namespace adds" in done.stderr, done.stderr
    subprocess.run(["rm", "-r", str(tmp_path / "a")], check=True)
    done = init(tmp_path, "--into", "missing/above", "--upstream", "http://127.0.0.1:1")
    assert done.returncode == 1 and "make the directory above it first" in done.stderr and list(tmp_path.iterdir()) == []


def test_init_asks_three_things_on_a_terminal(tmp_path):
    ours, theirs = pty.openpty()
    process = launch([binary(), "init"], cwd=tmp_path, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    said = ""

    def answer(question, text):
        nonlocal said
        while question not in said:
            assert select.select([ours], [], [], 20)[0], said
            said += os.read(ours, 4096).decode()
        said = ""
        os.write(ours, f"{text}\n".encode())

    with Scripted(models) as model:
        answer("How will bearward run", "somehow")
        answer("How will bearward run", "here")
        answer("The URL of the model server", f"http://127.0.0.1:{model.port}")
        answer("Where do clients reach bearward", "")
        key = process.stdout.read().strip()
    assert process.wait(20) == 0 and key.startswith("bwk_")
    os.close(ours)
    assert yaml.safe_load((tmp_path / "bearward.yaml").read_text())["listeners"] == [{"address": "127.0.0.1:8080"}]


def test_the_unit_and_the_files_of_a_service_belong_together(tmp_path_factory):
    # A service can't see /tmp.
    directory = pathlib.Path("/var/lib") / f"bearward-test-{os.getpid()}"
    try:
        # A umask of root's takes nothing from the group of the service.
        done = init("/", "--for", "systemd", "--into", str(directory), "--listen", "0.0.0.0:443", "--upstream", "http://127.0.0.1:1", preexec_fn=lambda: os.umask(0o077))
        if done.returncode == 1 and "Permission denied" in done.stderr:
            pytest.skip("needs root")
        assert done.returncode == 0, done.stderr
        names = sorted(path.name for path in directory.iterdir())
        secrets = [".bearward-id-secret", "admin.token", "keys.yaml", "tls.key"]
        assert names == sorted([*secrets, "bearward.service", "bearward.socket", "config.yaml", "tls.crt"])
        assert directory.stat().st_mode & 0o777 == 0o750
        for name in secrets:
            assert (directory / name).stat().st_mode & 0o777 == 0o640, "root changes it, and the service reads it"
        # The directory is new, so its group is the service's; one that was there may hold files of others.
        [chown] = [line for line in done.stderr.splitlines() if "chown" in line]
        owned = set(chown.split()[2:])
        assert owned == {str(directory), *(str(directory / name) for name in names if not name.startswith("bearward."))}
        unit = (directory / "bearward.service").read_text()
        assert f"run --config {directory}/config.yaml" in unit and f"ConditionFileNotEmpty={directory}/keys.yaml" in unit
        assert "ListenStream=0.0.0.0:443" in (directory / "bearward.socket").read_text()
        for name in ("config.yaml", "keys.yaml", "tls.key"):
            assert str(directory / name) in unit + (directory / "config.yaml").read_text()
        verified = unit.replace(re.search(r"ExecStart=(\S+)", unit).group(1), "/bin/true")
        (directory / "bearward.service").write_text(verified)
        checked = subprocess.run(["systemd-analyze", "verify", "--man=no", str(directory / "bearward.service")], capture_output=True, text=True, timeout=60)
        ours = [line for line in checked.stderr.splitlines() if "bearward" in line]
        assert ours == [], checked.stderr
        # The state's directory is made by the unit.
        config = (directory / "config.yaml").read_text().replace("/var/lib/bearward/state", str(directory / "state"))
        (directory / "config.yaml").write_text(config)
        checked = subprocess.run([binary(), "check", "--config", str(directory / "config.yaml")], capture_output=True, text=True, timeout=30)
        assert checked.returncode == 0, checked.stderr
    finally:
        subprocess.run(["rm", "-rf", str(directory)], check=True)


def test_a_directory_that_was_there_keeps_its_group(tmp_path_factory):
    directory = pathlib.Path("/var/lib") / f"bearward-there-{os.getpid()}"
    try:
        directory.mkdir()
        done = init("/", "--for", "systemd", "--into", str(directory), "--listen", "api.example.com", "--upstream", "http://127.0.0.1:1")
        assert done.returncode == 0, done.stderr
        [chown] = [line for line in done.stderr.splitlines() if "chown" in line]
        names = ("config.yaml", "keys.yaml", "admin.token", ".bearward-id-secret")
        assert set(chown.split()[2:]) == {str(directory / name) for name in names}
        [listener] = yaml.safe_load((directory / "config.yaml").read_text())["listeners"]
        assert listener == {"address": "0.0.0.0:443", "tls": {"acme": {"domains": ["api.example.com"]}}}
    except PermissionError:
        pytest.skip("needs root")
    finally:
        subprocess.run(["rm", "-rf", str(directory)], check=True)


DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME, namespace: models}
spec:
  selector: {matchLabels: {app: llama}}
  template:
    metadata: {labels: {app: llama}}
    spec:
      containers:
        - name: llama
          image: "ghcr.io/ggml-org/llama.cpp:server"
          ports: [{name: https, containerPort: 8000}, {name: admin, containerPort: 8001}]
          volumeMounts: [{name: config, mountPath: /models}]
      volumes: [{name: config, emptyDir: {}}, {name: keys, secret: {secretName: own, items: [{key: a, path: a}]}}]
"""


@pytest.fixture(scope="module", params=["llama", "qwen2.5", "no", "1e3"])
def sidecar(request, tmp_path_factory):
    """A directory with what `init` writes for a Deployment, what it said, and the Deployment as it is with the patch."""
    directory = tmp_path_factory.mktemp("sidecar")
    done = init(directory, "--for", "kubernetes", "--deployment", request.param, "--namespace", "models", "--routes", "llama-cpp", "--upstream", "http://127.0.0.1:8000")
    assert done.returncode == 0, done.stderr
    (directory / "deployment.yaml").write_text(DEPLOYMENT.replace("NAME", json.dumps(request.param)))
    command = [TOOLS / "kubectl", "patch", "--local", "-f", "deployment.yaml", "--patch-file", "sidecar.patch.yaml", "-o", "yaml"]
    patched = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60)
    assert patched.returncode == 0, patched.stderr
    (directory / "patched.yaml").write_text(patched.stdout)
    return directory, done, yaml.safe_load(patched.stdout), request.param


def validated(directory, name):
    checked = subprocess.run([TOOLS / "kubernetes-validate", "--strict", directory / name], capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_manifests_put_bearward_into_the_pods_of_a_deployment(sidecar):
    directory, _, patched, deployment = sidecar
    name = "bearward-" + deployment.replace(".", "--")
    objects = list(yaml.safe_load_all((directory / "kubernetes.yaml").read_text()))
    # Secrets are in files of their own: who applies the objects again brings no revoked key back.
    assert [one["kind"] for one in objects] == ["ConfigMap", "Service", "NetworkPolicy"]
    assert {(one["metadata"]["name"], one["metadata"]["namespace"]) for one in objects} == {(name, "models")}
    validated(directory, "kubernetes.yaml")
    validated(directory, "patched.yaml")
    pod = patched["spec"]["template"]
    [sidecar] = pod["spec"]["initContainers"]
    version = subprocess.run([binary(), "version"], capture_output=True, text=True).stdout.split()[1]
    assert sidecar["image"] == f"bearward:{version}"
    assert sidecar["securityContext"]["runAsNonRoot"] and sidecar["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["metadata"]["labels"] == {"app": "llama", "bearward": deployment}
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert volumes.keys() == {mount["name"] for mount in sidecar["volumeMounts"]} | {"config", "keys"}
    # What the Deployment has of its own stays as it is, whatever its names are.
    assert "emptyDir" in volumes["config"] and volumes["keys"]["secret"]["secretName"] == "own"
    assert volumes["bearward-config"]["configMap"]["name"] == name
    assert [volumes[f"bearward-{part}"]["secret"]["secretName"] for part in ("keys", "tls", "admin")] == [f"{name}-{part}" for part in ("keys", "tls", "admin")]
    ports = {port["name"]: port["containerPort"] for port in sidecar["ports"]}
    assert not ports.keys() & {"https", "admin"}
    [service], [policy] = ([one for one in objects if one["kind"] == kind] for kind in ("Service", "NetworkPolicy"))
    assert service["spec"]["selector"] == policy["spec"]["podSelector"]["matchLabels"] == {"bearward": deployment}
    assert [port["targetPort"] for port in service["spec"]["ports"]] == [ports["bearward-https"]]
    assert [port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]] == [ports["bearward-https"], ports["bearward-admin"]]
    # It is the sidecar that the repository has for operators, with names of its own.
    known = yaml.safe_load((pathlib.Path(__file__).parents[2] / "deploy/kubernetes/sidecar/deployment.yaml").read_text())
    [known] = known["spec"]["template"]["spec"]["initContainers"]
    theirs = json.loads(json.dumps({**sidecar, "image": "", "securityContext": ""}).replace('"bearward-', '"'))
    assert theirs == {**known, "image": "", "securityContext": ""}


def test_the_patch_is_one_for_a_kustomization_wherever_the_namespace_is_named(sidecar, tmp_path):
    directory, _, patched, deployment = sidecar
    target = {"kind": "Deployment", "name": deployment}
    kustomization = {"namespace": "models", "resources": ["deployment.yaml", "kubernetes.yaml"], "patches": [{"path": "sidecar.patch.yaml", "target": target}]}
    for name in ("kubernetes.yaml", "sidecar.patch.yaml"):
        (tmp_path / name).write_text((directory / name).read_text())
    (tmp_path / "kustomization.yaml").write_text(json.dumps(kustomization))
    for named in ("", ", namespace: models"):
        (tmp_path / "deployment.yaml").write_text(DEPLOYMENT.replace("NAME, namespace: models", json.dumps(deployment) + named))
        built = subprocess.run([TOOLS / "kubectl", "kustomize", tmp_path], capture_output=True, text=True, timeout=60)
        assert built.returncode == 0, built.stderr
        [found] = [one for one in yaml.safe_load_all(built.stdout) if one["kind"] == "Deployment"]
        assert found["spec"]["template"]["spec"]["initContainers"] == patched["spec"]["template"]["spec"]["initContainers"]


def test_the_commands_for_kubernetes_make_what_the_pod_mounts(sidecar, tmp_path):
    directory, done, patched, _ = sidecar
    # What is in git has no secret.
    for file in ("kubernetes.yaml", "sidecar.patch.yaml"):
        text = (directory / file).read_text()
        assert "PRIVATE KEY" not in text and "sha256:" not in text and (directory / "admin/token").read_text() not in text
    commands = re.findall(r"^  kubectl (-n models create secret .*)$", done.stderr, re.M)
    assert len(commands) == 4 and commands[3].endswith("--dry-run=client -o yaml | kubectl -n models replace -f -")
    secrets = {}
    for command in commands[:3]:
        made = subprocess.run([TOOLS / "kubectl", *command.split(), "--dry-run=client", "-o", "yaml"], cwd=directory, capture_output=True, text=True, timeout=60)
        assert made.returncode == 0, made.stderr
        secret = yaml.safe_load(made.stdout)
        secrets[secret["metadata"]["name"]] = {name: base64.b64decode(value) for name, value in secret["data"].items()}
    pod = patched["spec"]["template"]["spec"]
    [container] = pod["initContainers"]
    paths = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    text = next(yaml.safe_load_all((directory / "kubernetes.yaml").read_text()))["data"]["config.yaml"]
    assert "routes: llama-cpp" in text
    for volume in pod["volumes"]:
        if volume["name"] in paths and "secret" in volume:
            # As the kubelet mounts it: each file is a link to a file in the directory of the day.
            mount = tmp_path / volume["name"]
            (mount / "..2026").mkdir(parents=True)
            (mount / "..data").symlink_to("..2026")
            for name, content in secrets[volume["secret"]["secretName"]].items():
                (mount / "..2026" / name).write_bytes(content)
                (mount / name).symlink_to(f"..data/{name}")
            text = text.replace(paths[volume["name"]], str(mount))
    (tmp_path / "bearward.yaml").write_text(text.replace("/var/lib/bearward/state", str(tmp_path / "state")))
    checked = subprocess.run([binary(), "check"], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert checked.returncode == 0, checked.stderr
    keys = str(tmp_path / "bearward-keys")
    verified = subprocess.run([binary(), "keys", "verify", "--keys", keys], input=done.stdout, capture_output=True, text=True, timeout=30)
    assert verified.returncode == 0, verified.stderr
    told = subprocess.run(["openssl", "x509", "-in", directory / "tls/tls.crt", "-noout", "-ext", "subjectAltName"], capture_output=True, text=True, timeout=20)
    assert "DNS:localhost" in told.stdout and ".models.svc.cluster.local" in told.stdout


def test_a_configuration_of_another_user_leads_no_command_of_root(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root")
    (tmp_path / "bearward.yaml").write_text("admin: {address: 127.0.0.1:6666, token_file: /etc/bearward/admin.token}")
    environment = {name: value for name, value in os.environ.items() if name not in ("BEARWARD_CONFIG", "SUDO_UID")}
    for owner, target in [((12345, 12345), False), ((0, 0), False), ((12345, 12345), True)]:
        os.chown(tmp_path / "bearward.yaml", *owner)
        if target:
            # A link of theirs to a file of root.
            (tmp_path / "bearward.yaml").rename(tmp_path / "other.yaml")
            os.chown(tmp_path / "other.yaml", 0, 0)
            (tmp_path / "bearward.yaml").symlink_to("other.yaml")
            os.lchown(tmp_path / "bearward.yaml", 12345, 12345)
        for command in (["reload"], ["keys", "list"], ["check"]):
            done = subprocess.run([binary(), *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=20)
            is_refused = "another user's" in done.stderr and "--config" in done.stderr
            assert is_refused == (owner != (0, 0)) and done.returncode != 0, (owner, command, done.stderr)


@pytest.mark.parametrize("command", ["run", "check"])
def test_without_a_configuration_the_commands_are_named_that_help(tmp_path, command):
    environment = {name: value for name, value in os.environ.items() if name != "BEARWARD_CONFIG"}
    done = subprocess.run([binary(), command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=20)
    assert done.returncode == 78
    for typed in ("bearward init", "bearward demo", "--config FILE", "bearward run --upstream"):
        assert typed in done.stderr


def audit(url, *args):
    """Exit code and outcome of an audit."""
    done = subprocess.run([binary(), "audit-upstream", url, "--json", *args], capture_output=True, text=True, timeout=60)
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


def vllm(key):
    """A script that guards what vLLM's own key guards."""
    def script(side, request):
        method, path = request.split()[:2]
        text = request.decode().lower()
        is_guarded = path.startswith((b"/v1", b"/v2", b"/inference", b"/cohere"))
        if key and is_guarded and f"authorization: bearer {key}" not in text:
            return side.sendall(json_answer('{"error":"Unauthorized"}', "401 Unauthorized"))
        if path == b"/v1/models":
            return models(side, request)
        known = {b"/pause": b"POST", b"/v1/chat/completions": b"POST", b"/invocations": b"POST", b"/metrics": b"GET"}
        status = "404 Not Found" if path not in known else "200 OK" if known[path] == method == b"GET" else "400 Bad Request" if known[path] == method else "405 Method Not Allowed"
        side.sendall(json_answer("{}", status))

    return script


def verdicts(outcome):
    return {answer["path"]: answer["verdict"] for answer in outcome["answers"]}


def test_an_audit_finds_what_a_servers_own_key_leaves_open():
    with Scripted(vllm("secret")) as server:
        code, outcome = audit(f"http://127.0.0.1:{server.port}", "--routes", "vllm")
        found = verdicts(outcome)
        assert found["/v1/chat/completions"] == found["/v1/models"] == "guarded"
        assert found["/pause"] == found["/invocations"] == found["/metrics"] == "open"
        assert found["/is_sleeping"] == "absent"
        # On loopback, only processes of this machine go around bearward.
        assert code == 0 and outcome["is_safe"] and not outcome["is_exposed"]
        assert outcome["verdict"] == "local" and outcome["why"].startswith("Not reachable from other machines")
        assert "Every user and every process of this machine" in outcome["advice"] and "--uds" in outcome["advice"]
        # Nothing that operates the server was asked by its own method, and nothing had a body that can be acted on.
        for request in server.requests:
            assert not request.startswith((b"POST /pause", b"DELETE")), request
            assert request.split(b"\r\n\r\n", 1)[1] in (b"", b"{")


@contextlib.contextmanager
def exposed(script):
    """The port of a server that listens on all addresses."""
    server = Scripted(script)
    server.listener.close()
    server.listener = socket.create_server(("0.0.0.0", 0))
    with server:
        yield server.listener.getsockname()[1]


def test_an_audit_of_a_server_on_all_addresses_fails():
    with exposed(vllm(None)) as port:
        code, outcome = audit(f"http://127.0.0.1:{port}")
        assert code == 1 and outcome["is_exposed"] and outcome["routes"] == "vllm" and outcome["guarded"] == 0
        assert f"0.0.0.0:{port}" in outcome["reach"]
        printed = subprocess.run([binary(), "audit-upstream", f"http://127.0.0.1:{port}"], capture_output=True, text=True, timeout=60)
        assert "it asks for no key at all" in printed.stdout and "--host 127.0.0.1" in printed.stdout
        assert printed.stdout.startswith(f"OPEN: it listens at 0.0.0.0:{port}"), printed.stdout
        assert (outcome["verdict"], outcome["is_safe"]) == ("open", False) and outcome["why"] in printed.stdout


def test_an_audit_takes_no_refusal_for_a_question_for_a_key():
    # As Ollama on loopback answers behind a forwarder, and a firewall before a server.
    with exposed(lambda side, _: side.sendall(json_answer("{}", "403 Forbidden"))) as port:
        code, outcome = audit(f"http://127.0.0.1:{port}")
        assert (code, outcome["verdict"], outcome["is_safe"]) == (1, "unknown", False), outcome
        assert set(verdicts(outcome).values()) == {"refused"}
        printed = subprocess.run([binary(), "audit-upstream", f"http://127.0.0.1:{port}"], capture_output=True, text=True, timeout=60)
        assert "questions were refused with 403" in printed.stdout, printed.stdout
        assert "403, refuses, which says nothing of keys" in printed.stdout and "403, asks" not in printed.stdout


def test_an_audit_that_learns_nothing_is_not_safe():
    def stalls(side, request):
        if request.split()[1] == b"/":
            return side.sendall(json_answer("{}"))
        select.select([side], [], [], 30)
        return False

    with exposed(stalls) as port:
        code, outcome = audit(f"http://127.0.0.1:{port}", "--routes", "tgi")
        assert code == 1 and not outcome["is_safe"] and outcome["silent"] > 0
    assert audit(f"http://127.0.0.1:{free_port()}", "--routes", "any")[0] == 2


def test_a_server_that_hides_behind_its_own_key_is_asked_as_every_kind():
    def hides(side, request):
        if request.split()[1] == b"/v1/models":
            return side.sendall(json_answer("{}", "401 Unauthorized"))
        vllm("secret")(side, request)

    with Scripted(hides) as server:
        found = verdicts(audit(f"http://127.0.0.1:{server.port}")[1])
        assert found["/invocations"] == found["/pause"] == "open" and found["/v1/models"] == "guarded"
        asked = [request.split(b" HTTP")[0] for request in server.requests]
        assert b"GET /health_generate" not in asked and not [one for one in asked if b"{" in one]


def test_an_audit_begins_with_its_verdict_and_puts_answers_that_are_alike_in_one_line():
    def takes_other_methods(side, request):
        if request.split()[1] == b"/v1/models":
            return models(side, request)
        side.sendall(json_answer("{}", "405 Method Not Allowed"))

    with Scripted(takes_other_methods) as server:
        done = subprocess.run([binary(), "audit-upstream", f"http://127.0.0.1:{server.port}"], capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and done.stderr == "", done
    assert lines[0] == f"Not reachable from other machines: it listens at 127.0.0.1:{server.port} alone."
    assert lines[1].startswith("Every user and every process of this machine, or of this pod, can use it without a key. If that matters: start vLLM")
    assert "405, asks for another method, but for no key: PATCH /" in done.stdout
    assert lines[-1] == "--json shows all paths" and " more" in done.stdout and len(lines) < 20, done.stdout


def test_an_audit_says_why_it_can_not_ask(tmp_path):
    code, error = audit(f"http://127.0.0.1:{free_port()}")
    assert code == 1 and "refused" in error
    for url in ("unix:/run/x.sock", "ftp://x", "http://"):
        assert audit(url)[0] == 2, url
    for url in ("127.0.0.1:8000", "localhost:8000"):
        code, error = audit(url)
        assert code == 2 and f"write http://{url}" in error
    shown = subprocess.run([binary(), "audit-upstream", "--help"], capture_output=True, text=True, timeout=20).stdout
    shown = " ".join(shown.split())
    for part in ("Changes nothing", "0 safe", "1 open", "if the server can't be reached"):
        assert part in shown, shown


def test_an_audit_names_the_option_for_an_unknown_authority(tmp_path):
    files = [tmp_path / "tls.crt", tmp_path / "tls.key"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-out", files[0], "-keyout", files[1]]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    port = free_port()
    server = launch(["openssl", "s_server", "-quiet", "-www", "-accept", str(port), "-cert", files[0], "-key", files[1]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for("the server listens", lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        code, error = audit(f"https://localhost:{port}")
        assert code == 1 and "--ca tls.crt" in error and "{" not in error, error
        code, error = audit(f"https://127.0.0.1:{port}")
        assert code == 1 and "{" not in error, error
    finally:
        server.kill()
        server.wait()
