"""Files of `deploy/`: manifests, units, images, examples, each checked by the tool that reads it.

bearward checks its own configurations in them. No container engine is needed.
"""

import collections
import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import ssl
import stat
import subprocess
import tempfile
import time
import urllib.request

import helm_python
import pytest
import yaml

from deployed import (
    ALONE, CHART, DEPLOY, FLEETS, MANIFESTS, SIDECAR, TOOLS, VALKEY, VALUES, Busy, Confined, DeployedValkey, Files, Running,
    answering, charted, checked, composed, configuration, configurations, kustomized, objects, valkey_of, workload,
)  # fmt: skip
from gateway import ROOT, binary, wait_for

# Highest allowed exposure of `systemd-analyze security`, in tenths.
EXPOSURE = 20
DASHBOARD = DEPLOY / "grafana" / "bearward.json"
RULES = DEPLOY / "prometheus" / "rules.yaml"


def run(*command, **more):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, **more)


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    with answering() as model, Busy(tmp_path_factory.mktemp("busy"), model) as busy:
        yield busy


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("files") / "of")


# Kubernetes


def test_the_chart_has_the_same_files_for_valkey():
    """A chart can read no file outside itself, so it has copies."""
    chart, kustomize = ({path.name: path.read_text() for path in files.iterdir()} for files in (CHART / "valkey", VALKEY))
    assert chart == kustomize


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: f"{manifest[0].__name__}-{manifest[1]}")
def test_manifests_are_valid_and_confined(manifest, tmp_path):
    render, name = manifest
    (tmp_path / "all.yaml").write_text(render(name))
    done = run(TOOLS / "kubernetes-validate", "--strict", tmp_path / "all.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("passed for resource") + done.stderr.count("passed for resource") == len(objects(manifest))
    assert "subPath" not in "".join(line for line in render(name).splitlines() if not line.strip().startswith("#"))
    is_sidecar = name.startswith("sidecar")
    deployment = workload(manifest)
    for one in [*objects(manifest, "Deployment"), *objects(manifest, "StatefulSet")]:
        assert_is_confined(one["spec"]["template"]["spec"])
    pod = deployment["spec"]["template"]["spec"]
    containers = pod["containers"] + pod.get("initContainers", [])
    [bearward] = [one for one in containers if one["name"] == "bearward"]
    assert bearward["resources"]["requests"] and bearward["resources"]["limits"]["memory"]
    for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        assert bearward[probe]["httpGet"] == {"path": path, "port": "admin"}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for mount in bearward["volumeMounts"]:
        if mount["name"] == "state":
            continue
        assert mount["readOnly"] and volumes[mount["name"]].keys() & {"configMap", "secret"}
        assert volumes[mount["name"]].get("secret", {"defaultMode": 0o440})["defaultMode"] == 0o440

    config = yaml.safe_load(configuration(manifest))
    assert_state_is_durable(deployment, config)
    # The kubelet must reach the admin listener: it listens on all addresses and requires a token.
    assert config["admin"]["address"].startswith("0.0.0.0:") and config["admin"]["token_file"]
    assert all(listener["tls"] for listener in config["listeners"])
    ports = {port["name"]: port["containerPort"] for port in bearward["ports"]}
    assert {config["admin"]["address"].split(":")[1], config["listeners"][0]["address"].split(":")[1]} == {
        str(ports["admin"]), str(ports["https"])
    }  # fmt: skip
    drain = int(config["limits"]["drain_timeout"].removesuffix("s"))
    # A gateway that is alone has no preStop, because no other pod takes over.
    is_alone = deployment["kind"] == "StatefulSet" and deployment["spec"].get("replicas") == 1
    paused = [one for one in pod["containers"] if "lifecycle" in one]
    assert bool(paused) == (is_sidecar or not is_alone)
    pauses = [one["lifecycle"]["preStop"]["sleep"]["seconds"] for one in paused]
    assert pod["terminationGracePeriodSeconds"] > drain + max(pauses, default=0)

    scaled = [one["spec"]["scaleTargetRef"] for one in objects(manifest, "HorizontalPodAutoscaler")]
    assert ("replicas" in deployment["spec"]) == (not scaled)
    assert all((one["kind"], one["name"]) == (deployment["kind"], deployment["metadata"]["name"]) for one in scaled)
    assert bool(objects(manifest, "PodDisruptionBudget")) == (not is_sidecar and not is_alone)
    selector = deployment["spec"]["selector"]["matchLabels"]
    assert selector.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    services = [one for one in objects(manifest, "Service") if not one["metadata"]["name"].endswith("-valkey")]
    assert services
    for service in services:
        assert service["spec"]["selector"] == selector
        assert {port["targetPort"] for port in service["spec"]["ports"]} == {"https"}, "the https port is the only one exposed"
    [policy] = [one for one in objects(manifest, "NetworkPolicy") if one["spec"]["podSelector"]["matchLabels"] == selector]
    assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    admin = [rule for rule in policy["spec"]["ingress"] if {"port": "admin"} in rule["ports"]]
    assert admin and all(rule.get("from") for rule in admin), "access to the admin listener is restricted"

    if is_sidecar:
        assert pod["initContainers"] == [bearward] and bearward["restartPolicy"] == "Always"
        assert config["admin"]["ready_with_upstreams"] is True
        [model] = pod["containers"]
        assert model["args"][model["args"].index("--host") + 1] == "127.0.0.1" and "ports" not in model
        endpoints = [url for upstream in config["upstreams"] for url in upstream["endpoints"]]
        assert endpoints == ["http://127.0.0.1:" + model["args"][model["args"].index("--port") + 1]]
    else:
        assert pod["containers"] == [bearward]
        assert len(pod.get("topologySpreadConstraints", [])) == (0 if is_alone else 2)


def assert_is_confined(pod):
    assert pod["automountServiceAccountToken"] is False
    context = pod["securityContext"]
    assert context["runAsNonRoot"] and context["runAsUser"] > 0 and context["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"] + pod.get("initContainers", []):
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False and own["readOnlyRootFilesystem"], container["name"]
        assert own["capabilities"] == {"drop": ["ALL"]} and "privileged" not in own
        assert re.search(r":[\w.-]*\d[\w.-]*$", container["image"]), "a version is pinned"


def assert_state_is_durable(workload, config):
    """With `state`, one directory is writable, it is the parent of `state.path`, and no two pods share it."""
    spec, pod = workload["spec"], workload["spec"]["template"]["spec"]
    [bearward] = [one for one in pod["containers"] + pod.get("initContainers", []) if one["name"] == "bearward"]
    written = [mount for mount in bearward["volumeMounts"] if not mount.get("readOnly")]
    claims = {claim["metadata"]["name"]: claim["spec"] for claim in spec.get("volumeClaimTemplates", [])}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    if "state" not in config:
        assert written == [] and claims == {} and "state" not in volumes and workload["kind"] == "Deployment"
        return
    assert config["state"] == {"path": "/var/lib/bearward/state"}
    assert written == [{"name": "state", "mountPath": "/var/lib/bearward"}]
    context = pod["securityContext"]
    assert context["fsGroup"] == context["runAsGroup"] == 65532
    others = [one for one in pod["containers"] + pod.get("initContainers", []) if one != bearward]
    assert all(mount["name"] != "state" for one in others for mount in one.get("volumeMounts", []))
    if workload["kind"] == "Deployment":
        # Each pod has its own.
        assert "emptyDir" in volumes["state"] and claims == {}
        return
    assert spec["serviceName"] and context["fsGroupChangePolicy"] == "OnRootMismatch"
    if claims:
        # A claim for each pod.
        assert claims["state"]["accessModes"] == ["ReadWriteOnce"] and "state" not in volumes
        assert claims["state"]["resources"]["requests"]["storage"]
    else:
        assert volumes["state"]["persistentVolumeClaim"]["claimName"] and spec["replicas"] == 1
    assert spec.get("replicas") == 1 or "shared" in config


def test_one_gateway_has_the_state_and_a_fleet_has_none():
    alone, fleet = workload((kustomized, "gateway")), workload((kustomized, "gateway-fleet"))
    assert alone["kind"] == "StatefulSet" and alone["spec"]["replicas"] == 1 and alone["spec"]["volumeClaimTemplates"]
    assert fleet["kind"] == "Deployment"
    # The pods differ in nothing else.
    pods = [one["spec"]["template"]["spec"] for one in (alone, fleet)]
    state, redis = [[mount for mount in pod["containers"][0]["volumeMounts"]] for pod in pods]
    assert [mount for mount in state if mount not in redis] == [{"name": "state", "mountPath": "/var/lib/bearward"}]
    assert [mount["name"] for mount in redis if mount not in state] == ["redis"]
    different = {name for name in pods[0].keys() | pods[1].keys() if pods[0].get(name) != pods[1].get(name)}
    assert different == {
        "containers", "securityContext", "terminationGracePeriodSeconds", "topologySpreadConstraints", "volumes"
    }  # fmt: skip
    containers = [pod["containers"][0] for pod in pods]
    different = {name for name in containers[0].keys() | containers[1].keys() if containers[0].get(name) != containers[1].get(name)}
    assert different == {"lifecycle", "volumeMounts"}


def test_the_charts_claim_is_what_the_values_say():
    [of_sidecar] = workload((charted, "sidecar state"))["spec"]["volumeClaimTemplates"]
    assert of_sidecar["spec"]["storageClassName"] == "fast"
    assert of_sidecar["spec"]["resources"] == {"requests": {"storage": "500Mi"}}
    pod = workload((charted, "claimed state"))["spec"]["template"]["spec"]
    assert {"name": "state", "persistentVolumeClaim": {"claimName": "budgets"}} in pod["volumes"]
    [of_valkey] = valkey_of((charted, "large fleet"))["spec"]["volumeClaimTemplates"]
    assert of_valkey["spec"]["storageClassName"] == "fast"
    assert of_valkey["spec"]["resources"] == {"requests": {"storage": "4Gi"}}
    # Without `state.enabled`, nothing of it is there.
    assert workload((charted, "gateway"))["kind"] == "Deployment" and "state:" not in charted("gateway")


@pytest.mark.parametrize(
    ("values", "way_out"),
    [
        ({"state": {"enabled": True}}, "autoscaling.enabled=false"),
        (ALONE | {"replicas": 2}, "replicas=1"),
        (SIDECAR | {"state": {"enabled": True}}, "replicas=1"),
        (
            {"shared": {"enabled": True}, "valkey": {"enabled": True}, "state": {"enabled": True, "existingClaim": "one"}},
            "leave it empty",
        ),
    ],
)
def test_replicas_that_would_use_one_state_are_refused(values, way_out):
    with helm_python.Chart.load(CHART) as chart, pytest.raises(helm_python.HelmError) as refused:
        chart.render(values, name="demo")
    assert "only one process may use a state directory" in str(refused.value) and way_out in str(refused.value)


def mib(text):
    """A number of MiB, as Kubernetes or Valkey writes it."""
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi|mb|gb|m|g)", text).groups()
    return int(number) * {"m": 1, "g": 1024}[unit[0].lower()]


def options_of(valkey_conf, *args):
    """Valkey's options, from its file and from arguments, which win."""
    given = {name.removeprefix("--"): value for name, value in zip(args[::2], args[1::2], strict=True)}
    return dict(re.findall(r"(?m)^([\w-]+) (.*)$", valkey_conf)) | given


@pytest.mark.parametrize("manifest", FLEETS, ids=lambda manifest: f"{manifest[0].__name__}-{manifest[1]}")
def test_valkey_is_what_bearward_connects_to_and_only_bearward_reaches_it(manifest):
    stateful, deployment = valkey_of(manifest), workload(manifest)
    name, pod = stateful["metadata"]["name"], stateful["spec"]["template"]["spec"]
    assert stateful["spec"]["replicas"] == 1
    [valkey] = pod["containers"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    claims = {claim["metadata"]["name"]: claim["spec"] for claim in stateful["spec"].get("volumeClaimTemplates", [])}
    assert {mount["name"] for mount in valkey["volumeMounts"]} == {*volumes, *claims} == {"files", "redis", "data"}
    assert [mount["mountPath"] for mount in valkey["volumeMounts"] if not mount.get("readOnly")] == ["/data"]

    shared = yaml.safe_load(configuration(manifest))["shared"]
    user, host = re.fullmatch(r"redis://(\w+)@([\w-]+):6379/0", shared["redis"]).groups()
    [service] = [one for one in objects(manifest, "Service") if one["metadata"]["name"] == host]
    labels = stateful["spec"]["template"]["metadata"]["labels"]
    selector = stateful["spec"]["selector"]["matchLabels"]
    assert name == host == stateful["spec"]["serviceName"] and service["spec"]["selector"] == selector
    assert selector.items() <= labels.items()
    assert not deployment["spec"]["selector"]["matchLabels"].items() <= labels.items(), "Valkey is no endpoint of bearward"
    # bearward and Valkey mount the same Secret, and both read its password.
    [secret] = [one for one in deployment["spec"]["template"]["spec"]["volumes"] if one["name"] == "redis"]
    assert volumes["redis"] == secret and shared["password"]["file"] == "/run/secrets/bearward/redis/password"
    [files] = [
        one["data"] for one in objects(manifest, "ConfigMap") if one["metadata"]["name"] == volumes["files"]["configMap"]["name"]
    ]
    assert files.keys() == {path.name for path in VALKEY.iterdir()}
    assert shared["password"]["file"] in files["start.sh"] and valkey["command"] == ["sh", "/etc/valkey/start.sh"]
    [rules] = re.findall(rf"(?m)^user {user} (.*)$", files["users.acl"])
    prefix = shared.get("prefix", "bw")
    assert [rule for rule in rules.split() if rule.startswith("~")] == [f"~{prefix}:*", f"~{{{prefix}:*"]
    most = objects(manifest, "HorizontalPodAutoscaler")
    assert shared["replicas"] == (most[0]["spec"]["maxReplicas"] if most else deployment["spec"]["replicas"])
    # Half of the memory is left for connections, fragmentation and rewrites, and nothing is evicted.
    options = options_of(files["valkey.conf"], *valkey.get("args", []))
    assert mib(options["maxmemory"]) * 2 <= mib(valkey["resources"]["limits"]["memory"])
    assert options["maxmemory-policy"] == "noeviction" and "cpu" not in valkey["resources"]["limits"]
    # The append-only file outlives the pod, and the volume has room for its successor.
    assert options["dir"] == "/data" and options["appendfsync"] == "everysec"
    assert (options["appendonly"] == "yes") == (manifest[1] != "forgetful fleet") == ("data" in claims)
    if claims:
        context = pod["securityContext"]
        assert context["fsGroup"] == context["runAsGroup"] and context["fsGroupChangePolicy"] == "OnRootMismatch"
        assert claims["data"]["accessModes"] == ["ReadWriteOnce"]
        assert mib(options["maxmemory"]) * 4 <= mib(claims["data"]["resources"]["requests"]["storage"])
    else:
        assert volumes["data"]["emptyDir"]["medium"] == "Memory"

    policies = {one["metadata"]["name"]: one["spec"] for one in objects(manifest, "NetworkPolicy")}
    policy, others = policies[name], deployment["spec"]["selector"]
    assert policy["podSelector"]["matchLabels"] == selector and set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert policy["ingress"] == [{"from": [{"podSelector": others}], "ports": [{"port": "redis"}]}]
    assert policy["egress"] == []
    asked = {"to": [{"podSelector": {"matchLabels": selector}}], "ports": [{"port": 6379}]}
    assert asked in policies[deployment["metadata"]["name"]]["egress"]


@pytest.mark.parametrize(
    ("alone", "fleet"), [("kubernetes/gateway/config.yaml", "kubernetes/gateway-fleet/config.yaml"),
                         ("docker/config/config.yaml", "docker/config-fleet/config.yaml")],
)  # fmt: skip
def test_the_configuration_of_a_fleet_has_shared_in_place_of_state(alone, fleet):
    alone, fleet = (yaml.safe_load(configurations()[origin]) for origin in (alone, fleet))
    assert fleet.pop("shared") and alone.pop("state") and fleet == alone


def test_the_chart_has_copies_of_valkeys_files():
    # Copies, because Helm reads only files below the chart, and not every archive keeps symbolic links.
    copies = {path.name: path.read_bytes() for path in (CHART / "valkey").iterdir()}
    assert copies == {path.name: path.read_bytes() for path in VALKEY.iterdir()}


def test_with_a_server_of_ones_own_the_chart_brings_none():
    for name in ("own server", "own cluster"):
        assert objects((charted, name), "StatefulSet") == [] and len(objects((charted, name), "Service")) == 1
    password = "/run/secrets/bearward/redis/password"
    assert yaml.safe_load(configuration((charted, "own server")))["shared"] == VALUES["own server"]["config"]["shared"] | {
        "redis": VALUES["own server"]["shared"]["redis"], "replicas": 6, "password": {"file": password}
    }  # fmt: skip
    assert "password" not in yaml.safe_load(configuration((charted, "own cluster")))["shared"]
    [deployment] = objects((charted, "own cluster"), "Deployment")
    assert "redis" not in str(deployment["spec"]["template"]["spec"]["volumes"])


def test_bearward_shares_limits_by_the_deployed_valkey_and_needs_no_more_rights(files, tmp_path):
    text = files.mapped(configurations()["kubernetes/gateway-fleet/config.yaml"])
    trust = ssl.create_default_context(cafile=files.root / "ca.crt")
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(answering())
        valkey = stack.enter_context(DeployedValkey(files, tmp_path))
        text = text.replace("bearward-valkey:6379", f"127.0.0.1:{valkey.port}").replace("model-server:8000", f"127.0.0.1:{model}")
        replicas = [stack.enter_context(Running(text, ca=True)) for _ in range(2)]
        wait_for("two replicas", lambda: valkey.ask("zcard", "{bw:fleet}:replicas") == "2")
        statuses, began = collections.Counter(), time.monotonic()
        for number in range(160):
            connection = http.client.HTTPSConnection("localhost", replicas[number % 2].port, timeout=10, context=trust)
            connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {files.key}"})
            statuses[connection.getresponse().status] += 1
            connection.close()
        # 600 a minute with a burst of 60, for both together.
        assert 60 <= statuses[200] <= 61 + 10 * (time.monotonic() - began) and statuses[429], statuses
        assert valkey.ask("acl", "log") == "", "bearward needs a command or name that users.acl doesn't have"
        # Anything else is refused, and so is anybody else.
        for command in (["get", "bw:x"], ["keys", "*"], ["flushall"], ["config", "get", "*"], ["acl", "list"]):
            assert "NOPERM" in valkey.ask(*command, user="bearward"), command
        script = valkey.ask("script", "load", "redis.call('hset', KEYS[1] or 'other', 'a', 1)", user="bearward")
        valkey.ask("evalsha", script, "1", "bw:own", user="bearward")
        valkey.ask("evalsha", script, "0", user="bearward")
        assert valkey.ask("exists", "bw:own") == "1" and valkey.ask("exists", "other") == "0"
        assert "NOAUTH" in valkey.ask("evalsha", script, "1", "bw:own", user=None)


@pytest.mark.parametrize(
    "manifest", [(kustomized, "gateway-fleet"), (charted, "fleet"), (charted, "forgetful fleet")], ids=lambda manifest: manifest[1]
)
def test_a_budget_in_the_deployed_valkey_survives_a_kill(manifest, tmp_path):
    files = Files(tmp_path / "of", "--budget", "requests=3/month")
    trust = ssl.create_default_context(cafile=files.root / "ca.crt")
    [container] = valkey_of(manifest)["spec"]["template"]["spec"]["containers"]
    (tmp_path / "valkey").mkdir()
    text, replaced = re.subn("http://model-server:8000", "http://127.0.0.1:MODEL", files.mapped(configuration(manifest)))
    assert replaced == 1

    def ask(running):
        connection = http.client.HTTPSConnection("localhost", running.port, timeout=10, context=trust)
        with contextlib.closing(connection):
            connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {files.key}"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())["error"]["code"] if answer.status != 200 else None

    def decided(running):
        """Whether the budget lets a request pass. After an outage, rate limits begin empty and refuse first."""
        answers = []

        def is_decided():
            answers.append(ask(running))
            return answers[-1] in ((200, None), (429, "BUDGET_EXCEEDED"))

        wait_for("the budget decides", is_decided)
        return answers[-1][0] == 200

    with answering() as model, DeployedValkey(files, tmp_path / "valkey", *container.get("args", [])) as valkey:
        text = re.sub(r"@[\w-]+-valkey:6379", f"@127.0.0.1:{valkey.port}", text.replace("MODEL", str(model)))
        with Running(text, ca=True) as running:
            assert [decided(running) for _ in range(4)] == [True, True, True, False]
            used = time.monotonic()
            wait_for("the file is on disk", lambda: time.monotonic() > used + 1.1)
            valkey.kill()
            # No replica guesses what is left of a budget.
            wait_for("bearward misses Valkey", lambda: ask(running) == (503, "LIMITER_UNAVAILABLE"))
            running.process.kill()
        # As after a failure of the machine: the end of the last command is not on the disk.
        for written in (tmp_path / "valkey" / "data").glob("appendonlydir/*.incr.aof"):
            with written.open("ab") as file:
                file.write(b"*4\r\n$4\r\nHSET\r\n$3\r\nbw:")
        valkey.run()
        # Another replica, which knows nothing of the budget.
        with Running(text, ca=True) as running:
            assert decided(running) == (manifest[1] == "forgetful fleet")


def test_the_deployed_valkey_keeps_its_data_and_never_starts_without_a_password(files, tmp_path):
    (tmp_path / "kept").mkdir()
    with DeployedValkey(files, tmp_path / "kept") as valkey:
        assert valkey.ask("hset", "bw:x", "a", "1") == "1"
        valkey.stop()
        valkey.run()
        assert valkey.ask("hget", "bw:x", "a") == "1"
    (tmp_path / "none").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty" / "password").write_text("\n")
        patch.setattr(files, "root", tmp_path / "empty")
        with DeployedValkey(files, tmp_path / "none") as valkey:
            assert valkey.process.wait(timeout=10) != 0
    assert "password is empty" in (tmp_path / "none" / "log").read_text()


def test_the_chart_keeps_a_containers_own_settings_and_adds_extra_volumes():
    [pod] = [one["spec"]["template"]["spec"] for one in objects((charted, "own settings"), "Deployment")]
    [model], [bearward] = pod["containers"], pod["initContainers"]
    assert model["lifecycle"] == {"preStop": {"exec": {"command": ["/stop"]}}}
    assert model["securityContext"] == {"runAsUser": 1000}
    assert [variable["name"] for variable in bearward["env"]] == ["UPSTREAM_KEY"]
    assert {"name": "ca", "mountPath": "/etc/model-ca", "readOnly": True} in bearward["volumeMounts"]
    assert {"name": "ca", "configMap": {"name": "model-ca"}} in pod["volumes"]


def test_a_fleet_has_at_least_three_replicas():
    [scaling] = objects((kustomized, "gateway-fleet"), "HorizontalPodAutoscaler")
    assert scaling["spec"]["minReplicas"] == 3


def test_only_the_gateway_reaches_model_servers():
    [policy] = [one for one in objects((kustomized, "gateway"), "NetworkPolicy") if "model-server" in one["metadata"]["name"]]
    [rule] = policy["spec"]["ingress"]
    selector = workload((kustomized, "gateway"))["spec"]["selector"]
    assert rule["from"] == [{"podSelector": selector}]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"mode": "both"}, "/mode"),
        ({"mode": "sidecar"}, "/sidecar/containers"),
        (SIDECAR | {"config": {}}, "/config/upstreams"),
        (SIDECAR | {"sidecar": {"containers": [{"name": "model", "image": "m:1", "ports": []}]}}, "/sidecar/containers"),
        ({"config": {"admin": "off"}}, "/config"),
        ({"config": {"keys": {"path": "/tmp/keys"}}}, "/config/keys"),
        ({"config": {"limits": {"drain_timeout": "5m"}}}, "drain_timeout"),
        ({"image": {"tag": "latest"}}, "/image/tag"),
        ({"replicas": 0}, "/replicas"),
        ({"replica": 1}, "replica"),
        ({"shared": {"enabled": True}}, "/shared/redis"),
        ({"shared": {"enabled": True, "redis": "http://redis"}}, "/shared/redis"),
        ({"shared": {"enabled": True, "redis": "redis://bearward:password@redis"}}, "/shared/redis"),
        ({"valkey": {"enabled": True}}, "/shared/enabled"),
        ({"valkey": {"enabled": True}, "shared": {"enabled": True, "redis": "redis://redis"}}, "/shared/redis"),
        ({"valkey": {"enabled": True}, "shared": {"enabled": True}, "secrets": {"redis": ""}}, "/secrets/redis"),
        ({"config": {"shared": {"timeout": "50ms"}}}, "/config"),
        ({"shared": {"enabled": True, "redis": "redis://a"}, "config": {"shared": {"redis": "redis://b"}}}, "/config/shared"),
        ({"valkey": {"maxMemory": "256"}}, "/valkey/maxMemory"),
        ({"valkey": {"persistence": {"size": "large"}}}, "/valkey/persistence/size"),
        (ALONE | {"config": {"state": {"path": "/tmp/state"}}}, "/config"),
        ({"state": {"size": "large"}}, "/state/size"),
        ({"state": {"existingClaim": "A B"}}, "/state/existingClaim"),
    ],
)
def test_invalid_values_are_refused(values, named):
    with helm_python.Chart.load(CHART) as chart, pytest.raises(helm_python.HelmValuesError) as refused:
        chart.render(values, name="demo")
    assert named in str(refused.value)


def test_the_chart_passes_its_linter_and_its_notes_name_the_next_step():
    for values in VALUES.values():
        assert helm_python.lint(CHART, values, strict=True)["errors"] == []
    with helm_python.Chart.load(CHART) as chart:
        version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
        assert f'version = "{version}"' in (ROOT / "Cargo.toml").read_text()
        notes = {name: chart.render(values, name="demo")["bearward/templates/NOTES.txt"] for name, values in VALUES.items()}
    assert "bearward keys create" in notes["gateway"] and "6 times as much" in notes["gateway"]
    assert "create secret generic bearward-redis" not in notes["gateway"] + notes["own cluster"]
    for name in ("fleet", "forgetful fleet", "sidecar fleet", "own server"):
        assert "create secret generic bearward-redis" in notes[name] and "times as much" not in notes[name]
    assert "in the claim state-demo-bearward-0" in notes["state"] and "in the claim budgets" in notes["claimed state"]
    assert "in the claim data-demo-bearward-valkey-0" in notes["fleet"] and "Valkey stores nothing" in notes["forgetful fleet"]
    assert "outage" in notes["state"] and "outage" not in notes["fleet state"] + notes["gateway"]
    assert all("times as much" not in notes[name] for name in notes if name.endswith("state"))
    assert "state.enabled" in notes["gateway"] and "state.enabled" not in notes["fleet"] + notes["state"]
    assert "networkPolicy.egress" in notes["own server"] and "networkPolicy.egress" not in notes["fleet"]


# Configurations


@pytest.mark.parametrize("origin", configurations())
def test_every_configuration_passes_check(origin, files):
    text = files.mapped(configurations()[origin])
    assert not re.search(r"(?m)^[^#]*/(etc|run)/", text), "a path that `Files.PATHS` does not map"
    report = checked(text, files.root)
    assert report["ok"], report["faults"]
    # Warnings about the test's key and descriptors are expected, and of a server for limits that can't be reached
    # from here; the configuration must cause none.
    # The listener of a container is published on loopback (compose.yaml), which nobody can tell outside of it.
    expected = ("never end", "descriptors", "failed to lookup address", *["in clear"] * ("docker" in origin))
    assert [warning for warning in report["warnings"] if not any(text in warning for text in expected)] == []


def test_all_configurations_are_found():
    origins = set(configurations())
    examples = {f"examples/{server}/config.yaml" for server in ("vllm", "llama-cpp", "ollama", "triton")} | {
        "examples/triton/grpc.yaml"
    }
    assert examples | {"debian/config.yaml", "docker/config/config.yaml", "examples/proxied.yaml"} <= origins
    assert len([origin for origin in origins if origin.startswith(("kustomized", "charted"))]) == len(MANIFESTS)


@pytest.mark.parametrize("origin", ["debian/config.yaml", "examples/proxied.yaml"])
def test_configurations_without_tls_listen_on_loopback(origin):
    config = yaml.safe_load(configurations()[origin])
    assert all(listener["address"].startswith("127.0.0.1:") for listener in config["listeners"])


@pytest.mark.parametrize(
    ("example", "method", "path", "endpoint"),
    [
        ("vllm/config", "POST", "/v1/chat/completions", "http://127.0.0.1:8000"),
        ("llama-cpp/config", "POST", "/completion", "http://127.0.0.1:8081"),
        ("ollama/config", "POST", "/api/chat", "http://127.0.0.1:11434"),
        ("triton/config", "POST", "/v2/models/m/infer", "http://127.0.0.1:8000"),
        ("triton/grpc", "POST", "/inference.GRPCInferenceService/ModelInfer", "h2c://127.0.0.1:8001"),
    ],
)
def test_each_server_is_reached_by_its_own_protocol(files, example, method, path, endpoint):
    config = files.root / "example.yaml"
    config.write_text(files.mapped(configurations()[f"examples/{example}.yaml"]))
    done = run(binary(), "explain", method, path, "--key", "reader", "--config", config, "--json")
    decision = json.loads(done.stdout)
    assert decision["forwarded"], done.stdout
    [upstream] = [step["text"] for step in decision["steps"] if step["step"] == "upstream"]
    assert f"({endpoint})" in upstream and upstream.endswith(f"as {path}")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a file system that is read-only")
@pytest.mark.parametrize(
    "origin",
    [
        "kustomized gateway",
        "kustomized sidecar",
        "charted state",
        "docker/config/config.yaml",
        "debian/config.yaml",
    ],
)
def test_a_budget_survives_a_kill_where_only_the_state_is_writable(origin):
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(answering())
        # Below /tmp, because the image's user must reach it.
        root = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bearward-e2e-")))
        files = Files(root / "of", "--budget", "requests=3/month")
        root.chmod(0o755)
        text, replaced = re.subn(r"http://[a-z0-9.-]+:80[08]0", f"http://127.0.0.1:{model}", files.mapped(configurations()[origin]))
        assert replaced == 1
        ca = "certificate:" in re.sub(r"(?m)^ *#.*", "", text)
        confined = stack.enter_context(Confined(text, files, ca=ca))

        def ask():
            connection = http.client.HTTPConnection("127.0.0.1", confined.port, timeout=10)
            if ca:
                trust = ssl.create_default_context(cafile=files.root / "ca.crt")
                connection = http.client.HTTPSConnection("localhost", confined.port, timeout=10, context=trust)
            with contextlib.closing(connection):
                connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {files.key}"})
                answer = connection.getresponse()
                return answer.status, json.loads(answer.read())["error"]["code"] if answer.status != 200 else None

        def written_at():
            request = urllib.request.Request(f"http://127.0.0.1:{confined.admin_port}/metrics")
            request.add_header("Authorization", f"Bearer {files.TOKEN}")
            with urllib.request.urlopen(request, timeout=10) as answer:
                found = re.search(r"(?m)^bearward_state_written_at_seconds (\S+)$", answer.read().decode())
                # Before the first time, there is none.
                return float(found[1]) if found else 0

        assert [ask() for _ in range(3)] == [(200, None)] * 3
        assert ask() == (429, "BUDGET_EXCEEDED")
        used = time.time()
        wait_for("the state is written", lambda: written_at() > used)
        confined.process.kill()
        confined.process.wait()
        confined.start()
        assert ask() == (429, "BUDGET_EXCEEDED")

        state = files.root / "lib" / "state"
        assert stat.S_IMODE(state.stat().st_mode) & 0o707 == 0o700 and state.stat().st_uid == Confined.USER
        # No second process gets the directory.
        done = run(*confined.command("run", "--config", confined.path / "bearward.yaml"))
        assert done.returncode == 78 and "another process uses the state directory" in done.stderr, done.stderr
        # Control: the volume is writable, and nothing else.
        (root / "open").mkdir()
        (root / "open").chmod(0o777)
        assert run(*confined.confining("touch", files.root / "lib" / "file")).returncode == 0
        assert "Read-only file system" in run(*confined.confining("touch", root / "open" / "file")).stderr


# Images


def test_the_dockerfile_has_no_faults_and_the_image_is_confined():
    done = run(TOOLS / "hadolint", "--failure-threshold", "info", DEPLOY / "docker" / "Dockerfile")
    assert done.returncode == 0 and done.stdout == "", done.stdout
    text = (DEPLOY / "docker" / "Dockerfile").read_text()
    last = text[text.rindex("\nFROM ") :]
    assert last.startswith("\nFROM scratch\n") and "\nRUN" not in last
    user = re.search(r"\nUSER (\d+):(\d+)\n", last)
    assert user and int(user[1]) > 0 and 'CMD ["/bearward", "healthcheck"]' in last
    # The commands of the image and of its health check exist.
    [entry] = re.findall(r'\nENTRYPOINT \["/bearward"\]\n(?:#.*\n)*CMD \["(\w+)"\]', last)
    for command in (entry, "healthcheck"):
        assert run(binary(), command, "--help").returncode == 0


def test_the_build_context_has_every_file_that_the_build_reads(tmp_path):
    """`.dockerignore` is an allow list: a file missing there would fail the build of the image."""
    allowed = [line[1:] for line in (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")]
    for name in allowed:
        source = ROOT / name
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    # cargo reads the manifest as in a build, even if the crates are not there.
    done = run("cargo", "fetch", "--offline", "--locked", cwd=tmp_path)
    assert "manifest" not in done.stderr, done.stderr
    assert (tmp_path / "src" / "main.rs").exists() and (tmp_path / "Cargo.lock").exists()
    for source in tmp_path.glob("src/**/*.rs"):
        for included in re.findall(r'include_(?:str|bytes)!\(\s*"([^"]+)"', source.read_text()):
            assert (source.parent / included).exists(), f"{source} includes {included}"
    # What the Dockerfile itself reads, on either machine.
    [build] = re.findall(r"^RUN ((?:.*\\\n)*.*)", (DEPLOY / "docker" / "Dockerfile").read_text(), re.MULTILINE)
    named = {word.removeprefix("./") for word in re.findall(r"(?:\./)?(?:deploy/[\w./-]+|LICENSE-\w+)", build)}
    assert named >= {"deploy/arm64.env", "deploy/licences.py", "LICENSE-MIT", "LICENSE-APACHE"}
    assert [name for name in sorted(named) if not (tmp_path / name).exists()] == []
    licences = run("python3", "deploy/licences.py", cwd=tmp_path)
    assert licences.returncode == 0 and "\nhyper " in licences.stdout, licences.stderr


COMPOSE = [[path] for path in sorted(DEPLOY.glob("**/compose.yaml"))]
COMPOSE += [[path.with_name("compose.yaml"), path] for path in sorted(DEPLOY.glob("**/compose.*.yaml"))]


@pytest.mark.parametrize("paths", COMPOSE, ids=lambda paths: paths[-1].stem)
def test_compose_exposes_models_only_through_bearward(paths):
    described = composed(*paths)
    if shutil.which("docker") and run("docker", "compose", "version").returncode == 0:
        done = run("docker", "compose", *(part for path in paths for part in ("-f", path)), "config", "--quiet")
        assert done.returncode == 0, done.stderr
    services = described["services"]
    bearward, models = services["bearward"], [one for name, one in services.items() if name != "bearward"]
    assert bearward["read_only"] and bearward["cap_drop"] == ["ALL"] and bearward["user"] == "65532:65532"
    assert bearward["healthcheck"]["test"] == ["CMD", "/bearward", "healthcheck"]
    named = [volume for volume in bearward["volumes"] if not volume.startswith(".")]
    config = (paths[0].parent / dict(volume.split(":")[1::-1] for volume in bearward["volumes"])["/etc/bearward"]) / "config.yaml"
    path = yaml.safe_load(config.read_text()).get("state", {}).get("path")
    if path:
        # One directory is writable, the parent of `state.path`, and the image has it with the right owner.
        assert named == ["state:/var/lib/bearward"] and path == "/var/lib/bearward/state" and "state" in described["volumes"]
        assert "deploy" not in bearward, "one process has the state"
        dockerfile = (DEPLOY / "docker" / "Dockerfile").read_text()
        assert "install -d -m 0700 /out/var/lib/bearward" in dockerfile
        assert f"COPY --from=build --chown={bearward['user']} /out/var /var\n" in dockerfile
    else:
        assert named == []
    for volume in bearward["volumes"]:
        if volume in named:
            continue
        source, _, mode = volume.split(":")
        assert mode == "ro" and not source.endswith((".yaml", ".yml")), "mounts are read-only directories"
        # Directories of secrets are made by the first commands.
        assert "secrets" in volume or (paths[0].parent / source).is_dir()
    for model in models:
        assert "ports" not in model and "network_mode" not in model
        assert all(described["networks"][network].get("internal") for network in model["networks"])
    for service in services.values():
        assert re.search(r":[\w.-]*\d[\w.-]*$", service["image"]), "a version is pinned"


def test_compose_gives_valkey_to_bearward_alone():
    described = composed(*COMPOSE[-1])
    bearward, valkey = described["services"]["bearward"], described["services"]["valkey"]
    [network] = valkey["networks"]
    assert [name for name, one in described["services"].items() if network in one["networks"]] == ["bearward", "valkey"]
    assert valkey["read_only"] and valkey["cap_drop"] == ["ALL"] and int(valkey["user"].split(":")[0]) > 0
    # The password belongs to this group.
    assert valkey["group_add"] == ["65532"]
    assert "-m 0440 -o 65532 -g 65532 /dev/stdin redis/password" in COMPOSE[-1][-1].read_text()
    # One directory is writable, a volume with the append-only file.
    assert [volume for volume in valkey["volumes"] if not volume.endswith(":ro")] == ["valkey:/data"]
    assert "valkey" in described["volumes"] and "tmpfs" not in valkey
    options = options_of((VALKEY / "valkey.conf").read_text(), *valkey.get("command", []))
    assert options["appendonly"] == "yes" and mib(options["maxmemory"]) * 2 <= mib(valkey["mem_limit"])
    mounts = [dict(volume.split(":")[1::-1] for volume in one["volumes"]) for one in (bearward, valkey)]
    assert len({one["/run/secrets/bearward/redis"] for one in mounts}) == 1
    assert (DEPLOY / "docker" / mounts[1]["/etc/valkey"]).resolve() == VALKEY
    # The configuration is that of this directory, and the ports are as many as the replicas.
    config = yaml.safe_load((DEPLOY / "docker" / mounts[0]["/etc/bearward"] / "config.yaml").read_text())
    assert config["shared"]["redis"] == "redis://bearward@valkey:6379/0"
    replicas = bearward["deploy"]["replicas"]
    first, last = re.search(r"BEARWARD_PORT=(\d+)-(\d+)", COMPOSE[-1][-1].read_text()).groups()
    assert config["shared"]["replicas"] == replicas == int(last) - int(first) + 1
    # One image for Kubernetes and Compose.
    [stateful] = objects((kustomized, "gateway-fleet"), "StatefulSet")
    assert valkey["image"] == stateful["spec"]["template"]["spec"]["containers"][0]["image"]


# systemd, and the package


@pytest.fixture
def units(tmp_path):
    """Directory with the units as installed, with the path of the test's binary."""
    for unit in (DEPLOY / "systemd").iterdir():
        (tmp_path / unit.name).write_text(unit.read_text().replace("/usr/bin/bearward", binary()))
    return tmp_path


def test_units_are_sound_and_confined(units):
    service = units / "bearward.service"
    done = run("systemd-analyze", "verify", "--man=no", service, units / "bearward.socket")
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if "bearward" in line]
    assert done.returncode == 0 and complaints == [], done.stderr
    done = run("systemd-analyze", "security", "--offline=yes", f"--threshold={EXPOSURE}", "--no-pager", service)
    assert done.returncode == 0, done.stdout[-2000:]
    text = service.read_text()
    config = yaml.safe_load((DEPLOY / "debian" / "config.yaml").read_text())
    assert "\nType=notify\n" in text and "\nExecReload=kill -HUP $MAINPID\n" in text
    assert f"ConditionFileNotEmpty={config['keys']['path']}\n" in text
    assert config["state"]["path"] == "/var/lib/bearward/state"
    assert "\nStateDirectory=bearward\nStateDirectoryMode=0700\n" in text
    # `bearward check` needs the directory before the first start.
    made = "install -d -m 0700 -o bearward -g bearward /var/lib/bearward\n"
    assert made in (DEPLOY / "debian" / "postinst").read_text()
    assert " /var/lib/bearward\n" in (DEPLOY / "debian" / "postrm").read_text(), "a purge removes the state"
    [address] = re.findall(r"(?m)^ListenStream=(.*)$", (units / "bearward.socket").read_text())
    assert [address] == [listener["address"] for listener in config["listeners"]]
    done = run(binary(), "schema")
    assert "drain_timeout" in done.stdout and int(re.search(r"\nTimeoutStopSec=(\d+)\n", text)[1]) > 30


def test_an_unconfined_unit_is_detected(units):
    """Control: the tools of the test above can fail."""
    service = units / "bearward.service"
    text = service.read_text()
    service.write_text(re.sub(r"(?m)^(Protect|Restrict|System|Capability|Private|NoNew|Memory).*\n", "", text))
    assert run("systemd-analyze", "security", "--offline=yes", f"--threshold={EXPOSURE}", "--no-pager", service).returncode != 0
    service.write_text(text.replace("Type=notify", "Type=notified"))
    done = run("systemd-analyze", "verify", "--man=no", service)
    assert "notified" in done.stdout + done.stderr


def test_maintainer_scripts_are_sound():
    scripts = [path for path in (DEPLOY / "debian").iterdir() if path.read_text().startswith("#!")]
    assert {path.name for path in scripts} == {"postinst", "prerm", "postrm"}
    for path in scripts:
        assert run("sh", "-n", path).returncode == 0 and path.stat().st_mode & 0o111 and "#DEBHELPER#" in path.read_text()


# Metrics


def expressions():
    """Queries of dashboard and rules, each with the name of its panel, annotation or alert."""
    dashboard = json.loads(DASHBOARD.read_text())
    queries = [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", [])]
    queries += [(note["name"], note["expr"]) for note in dashboard["annotations"]["list"]]
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    queries += [(rule["alert"], rule["expr"]) for rule in rules]
    variables = {"$__rate_interval": "4s", "$job": "bearward", "$instance": ".*"}
    for variable, value in variables.items():
        queries = [(where, text.replace(variable, value)) for where, text in queries]
    return queries


def named(text):
    """Metrics, labels and label values in an expression."""
    bare = re.sub(r"\$labels|\[[^\]]*\]", "", text)
    metrics = set(re.findall(r"\b(?:bearward|process)_\w+|\bup\b", bare))
    matched = re.findall(r"(\w+)\s*(=~|=|!=|!~)\s*\"([^\"]*)\"", bare)
    grouped = [
        label.strip() for labels in re.findall(r"\b(?:by|on|without|ignoring) \(([^)]*)\)", bare) for label in labels.split(",")
    ]
    return metrics, {label for label, _, _ in matched} | set(grouped), [(label, value) for label, _, value in matched]


def test_promtool_accepts_rules_scrape_and_dashboard_queries(tmp_path):
    asked = [{"record": f"asked:{number}", "expr": text} for number, (_, text) in enumerate(expressions())]
    (tmp_path / "asked.yaml").write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": asked}]}))
    for rules in (RULES, tmp_path / "asked.yaml"):
        done = run("promtool", "check", "rules", "--lint-fatal", rules)
        assert done.returncode == 0 and "SUCCESS" in done.stdout, done.stdout + done.stderr
    token = tmp_path / "token"
    token.write_text("secret")
    scrape = (DEPLOY / "prometheus" / "scrape.yaml").read_text()
    shutil.copy(RULES, tmp_path)
    (tmp_path / "scrape.yaml").write_text(scrape.replace("/etc/prometheus/bearward.key", str(token)))
    done = run("promtool", "check", "config", tmp_path / "scrape.yaml")
    assert done.returncode == 0 and "1 rule files found" in done.stdout, done.stdout + done.stderr
    # The commented-out job for Kubernetes must be valid YAML. Debian's promtool can't check it,
    # because it does not know the fields.
    jobs = yaml.safe_load(re.sub(r"(?m)^  #- ", "  ", scrape))["scrape_configs"]
    assert [job["job_name"] for job in jobs] == ["bearward", "bearward-pods"]
    for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]:
        assert rule["labels"]["severity"] in ("critical", "warning", "info") and len(rule["annotations"]["summary"]) > 60


def test_panels_do_not_overlap():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = collections.Counter(
        (x, y)
        for grid in (panel["gridPos"] for panel in panels)
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    )
    assert max(taken.values()) == 1 and max(x for x, _ in taken) < 24


def test_every_queried_metric_label_and_code_exists(busy):
    text = busy.scrape()
    labels = collections.defaultdict(set)
    values = collections.defaultdict(set)
    for line in text.splitlines():
        if found := re.match(r"(\w+)(?:\{(.*)\})? \S+", line):
            pairs = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', found[2] or "")
            labels[found[1]] |= {label for label, _ in pairs}
            for label, value in pairs:
                values[label].add(value)
    labels["up"] = set()
    codes = set()
    for where, asked in expressions():
        metrics, by, matched = named(asked)
        assert metrics, where
        for metric in metrics:
            assert metric in labels, f"{where}: there is no {metric}"
        # Prometheus adds `job` and `instance`. Only an endpoint with a name has `address`, and here
        # endpoints have none.
        known = {"job", "instance", "address"} | set().union(*(labels[metric] for metric in metrics))
        assert by <= known, f"{where}: no label {by - known}"
        for label, value in matched:
            for one in value.split("|") if label not in ("job", "instance") else []:
                codes |= {one} if label == "code" else set()
                assert label == "code" or one in values[label], f"{where}: {label} is never {one}"
    assert len(codes) > 5
    for code in codes:
        assert run(binary(), "explain", code).returncode == 0, f"no code {code}"


def test_a_real_prometheus_answers_every_panel_and_the_right_alerts_become_active(busy):
    # The busy server has data for every panel.
    for where, asked in expressions():
        if not where.startswith("Bearward"):
            wait_for(f"{where}: {asked} is answered", lambda asked=asked: busy.query(asked), seconds=20)
    active = set()

    def alerts():
        active.update(one["metric"]["alertname"] for one in busy.query("ALERTS"))
        return active >= CAUSED

    with contextlib.suppress(AssertionError):
        wait_for("alerts", alerts, seconds=20)
    # On a loaded machine, the server may be slow.
    assert active - {"BearwardSlow"} == CAUSED


# Alerts that `busy` does not cause, with series (in promtool's notation) that fire them within half
# an hour.
OF = 'job="bearward", instance="a"'


def budget(used, holder):
    """Series of a budget of 100 that two replicas share."""
    replicas = [f'job="bearward", instance="{replica}", {holder}, policy="tokens-month"' for replica in "ab"]
    series = {f"bearward_budget_limit{{{labels}}}": "100x30" for labels in replicas}
    # One of them is behind.
    return series | {f"bearward_budget_used{{{labels}}}": f"{used - late}x30" for late, labels in enumerate(replicas)}


NOT_CAUSED = [
    ("Down", {f"up{{{OF}}}": "0x30"}),
    ("ReplicasDiffer", {f"bearward_secrets{{{OF}}}": "5x30", 'bearward_secrets{job="bearward", instance="b"}': "6x30"}),
    ("CertificateEnds", {f"bearward_certificate_expiry_timestamp_seconds{{{OF}}}": f"{13 * 86400}x30"}),
    ("CertificateEnds CertificateEndsNow", {f"bearward_certificate_expiry_timestamp_seconds{{{OF}}}": f"{86400}x30"}),
    ("CertificateNotRenewed", {f'bearward_acme_failing{{{OF}, domains="a.example"}}': "1x30"}),
    ("IssuerAway", {f'bearward_issuer_failing{{{OF}, issuer="https://a.example"}}': "1x30"}),
    ("ThreadEnded", {f'bearward_threads_ended_total{{{OF}, thread="log"}}': "0x20 1x10"}),
    ("NameNotFound", {f'bearward_endpoint_look_up_failing{{{OF}, upstream="m", endpoint="http://model:1"}}': "1x30"}),
    ("StoreUnread", {f'bearward_reload_stale_seconds{{{OF}, part="keys"}}': "0+60x30"}),
    ("KeysHeld", {f"bearward_keys_held{{{OF}}}": "2x30"}),
    ("InternalError", {f'bearward_refusals_total{{{OF}, code="INTERNAL_ERROR"}}': "0x20 1x10"}),
    ("Overloaded", {f'bearward_refusals_total{{{OF}, code="OVERLOADED"}}': "0+60x30"}),
    ("QueueTooLong", {f'bearward_refusals_total{{{OF}, code="QUEUE_TIMEOUT"}}': "0+60x30"}),
    (
        "Slow",
        {
            f'bearward_added_seconds_bucket{{{OF}, le="{le}"}}': f"0+{n}x30"
            for le, n in (("0.1", 90), ("0.25", 100), ("+Inf", 100))
        },
    ),
    ("BudgetNearlyUsed", budget(80, 'key="a", group=""')),
    ("BudgetUsed", budget(100, 'key="", group="team"')),
    # Tokens that were estimated too low.
    ("BudgetUsed", budget(120, 'key="a", group=""')),
    ("StateNotWritten", {f"bearward_state_written_at_seconds{{{OF}}}": "0+60x20 1200x10"}),
    ("StateNotWritten", {f"bearward_state_write_failures_total{{{OF}}}": "0+60x30"}),
    ("DescriptorsShort", {f"process_open_fds{{{OF}}}": "900x30", f"process_max_fds{{{OF}}}": "1000x30"}),
    (
        "",
        {
            f"up{{{OF}}}": "1x30",
            f"bearward_secrets{{{OF}}}": "5x30",
            'bearward_secrets{job="bearward", instance="b"}': "5x30",
            f"bearward_reload_success{{{OF}}}": "1x30",
            f'bearward_reload_stale_seconds{{{OF}, part="keys"}}': "0x30",
            f"bearward_keys_held{{{OF}}}": "0x30",
            f"bearward_certificate_expiry_timestamp_seconds{{{OF}}}": f"{90 * 86400}x30",
            f'bearward_acme_failing{{{OF}, domains="a.example"}}': "0x20 1x10",
            f'bearward_issuer_failing{{{OF}, issuer="https://a.example"}}': "0x20 1x10",
            f'bearward_refusals_total{{{OF}, code="INTERNAL_ERROR"}}': "3x30",
            f'bearward_added_seconds_bucket{{{OF}, le="0.1"}}': "0+100x30",
            f'bearward_added_seconds_bucket{{{OF}, le="+Inf"}}': "0+100x30",
            f"bearward_state_written_at_seconds{{{OF}}}": "0+60x30",
            f"bearward_state_write_failures_total{{{OF}}}": "5x30",
            **budget(79, 'key="a", group=""'),
            f"process_open_fds{{{OF}}}": "100x30",
            f"process_max_fds{{{OF}}}": "1000x30",
        },
    ),
]


def test_the_other_alerts_fire_when_they_should(tmp_path):
    def case(alerts, series):
        expected = [{"labels": f'{{alertname="Bearward{name}"}}', "value": 1} for name in alerts.split()]
        asked = {"expr": 'count by (alertname) (ALERTS{alertstate="firing"})', "eval_time": "29m", "exp_samples": expected}
        given = [{"series": name, "values": values} for name, values in series.items()]
        return {"interval": "1m", "input_series": given, "promql_expr_test": [asked]}

    tests = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [case(*one) for one in NOT_CAUSED]}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    done = run("promtool", "test", "rules", tmp_path / "tests.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    there = {rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
    assert there == CAUSED | {f"Bearward{name}" for alerts, _ in NOT_CAUSED for name in alerts.split()}, "every alert has a test"


# Alerts that `busy` causes; no others may become active.
CAUSED = {f"Bearward{name}" for name in (
    "ReloadRefused", "KeyEnds", "EndpointDown", "UpstreamFails", "ServerErrors", "Guessing", "LimitReached", "LogLinesLost",
    "SpansLost", "KeysDueForRotation", "StrangersFlood", "CertificateNotRenewed", "IssuerAway",
)}  # fmt: skip
