"""Simulated kubelet: the sidecar's Secrets and ConfigMap are mounted and replaced under load.

bearward runs with the sidecar's own configuration, and clients send requests over TLS.
"""

import asyncio
import contextlib
import datetime
import os
import pathlib
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request

import pytest
import trustme

from deployed import Running, kustomized, objects, on_any_port, workload
from live import Load, Upstream, is_status, request
from test_keys import sha256

ROTATIONS = int(os.environ.get("ROTATIONS", "6"))
SOON = 2.5
ADMIN = "the-admin-token"


class Volume:
    """Mounted Secret or ConfigMap, written in the steps of the kubelet's atomic writer."""

    def __init__(self, path, files):
        self.path = path
        path.mkdir(parents=True)
        self.publish(files)

    def publish(self, files):
        data, old = self.path / "..data", None
        if data.is_symlink():
            old = self.path / os.readlink(data)
        version = self.path / f"{datetime.datetime.now(datetime.UTC):..%Y_%m_%d_%H_%M_%S}.{time.monotonic_ns() % 10**10}"
        version.mkdir(mode=0o755)
        for name, content in files.items():
            (version / name).write_bytes(content if isinstance(content, bytes) else content.encode())
            (version / name).chmod(0o440)
        (self.path / "..data_tmp").symlink_to(version.name)
        (self.path / "..data_tmp").rename(data)
        for name in files:
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(pathlib.Path("..data") / name)
        for link in list(self.path.iterdir()):
            if not link.name.startswith("..") and link.name not in files:
                link.unlink()
        if old:
            shutil.rmtree(old)


def key(name, token, previous=None, until=None):
    text = f"id: key_{name}\nname: {name}\nhash: {sha256(token)}\npermissions: [read]\n"
    if previous:
        text += f"previous:\n  - {{hash: {sha256(previous)}, expires_at: {until:%Y-%m-%dT%H:%M:%S.%fZ}}}\n"
    return text


class Pod:
    """Volumes of the sidecar below a test directory, with names and paths from the manifest."""

    def __init__(self, root, model):
        manifest = (kustomized, "sidecar")
        pod = workload(manifest)["spec"]["template"]["spec"]
        [bearward] = [one for one in pod["initContainers"] if one["name"] == "bearward"]
        [config] = objects(manifest, "ConfigMap")
        text = config["data"]["config.yaml"]
        text, replaced = re.subn(r"http://127\.0\.0\.1:8000", f"http://127.0.0.1:{model}", text)
        assert replaced == 1
        for path in ("/run/secrets/", "/var/lib/bearward/"):
            text = text.replace(path, f"{root}{path}")
        self.config = on_any_port(text)
        # The tests poll with secrets that are not valid yet, which would count as failed attempts.
        self.config += "\nfailed_attempts: off\n"
        self.authority = trustme.CA()
        # File names are those of the commands in kustomization.yaml.
        contents = {
            "config": {"config.yaml": self.config},
            "keys": {"stays.yaml": key("stays", "sk-stays"), "rotated.yaml": key("rotated", "sk-rotated-0")},
            "tls": self.certificate(),
            "admin": {"token": ADMIN},
        }
        self.volumes = {}
        for mount in bearward["volumeMounts"]:
            if mount["name"] == "state":
                (root / mount["mountPath"].lstrip("/")).mkdir(parents=True)
                continue
            assert mount["readOnly"] and "subPath" not in mount
            self.volumes[mount["name"]] = Volume(root / mount["mountPath"].lstrip("/"), contents.pop(mount["name"]))
        assert not contents, "every volume is mounted"

    def certificate(self):
        issued = self.authority.issue_cert("localhost")
        chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
        return {"tls.crt": chain, "tls.key": issued.private_key_pem.bytes()}

    def trust(self):
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context


@pytest.fixture
def gateway_in(tmp_path):
    """Function that starts bearward in a pod; the fixture ends the process."""
    with contextlib.ExitStack() as ending:

        def start(model):
            pod = Pod(tmp_path, model)
            # The default path of the configuration in the image.
            return pod, ending.enter_context(Running(tmp_path / "etc/bearward/config.yaml", ca=True))

        yield start


def probed(gateway, path, token=None):
    """Status and body of a request to the admin listener."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    asked = urllib.request.Request(f"http://127.0.0.1:{gateway.admin_port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(asked, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def until(condition, holds, seconds=SOON):
    """Seconds until `holds` returns true."""
    started = time.monotonic()
    while not await holds():
        assert time.monotonic() - started < seconds, f"timed out: {condition}"
        await asyncio.sleep(0.01)
    return time.monotonic() - started


class Clients:
    """Clients that send requests without pause, on kept connections and on new ones."""

    def __init__(self, port, trust):
        self.port, self.trust, self.loads = port, trust, []

    @contextlib.asynccontextmanager
    async def asking(self, token, number=4):
        load = Load(self.port, self.trust)
        self.loads.append(load)
        asks = [load.asks(request(token), is_status(200), keep=n % 2 == 0, pause=0.005) for n in range(number)]
        async with load.of(*asks):
            yield

    @property
    def failed(self):
        return [failure for load in self.loads for failure in load.failures]

    @property
    def served(self):
        return sum(load.counts.get("ok", 0) for load in self.loads)

    def answered(self):
        return sum(sum(load.counts.values()) for load in self.loads)

    async def await_answers(self, requests=100):
        """Returns after this many more answers, of any status."""
        enough = self.answered() + requests

        async def holds():
            return self.answered() >= enough

        await until(f"{requests} more requests", holds, seconds=20)

    async def status(self, token):
        """Status of a request on a new connection, and the certificate of that connection."""
        reader, writer = await Load(self.port, self.trust).connect()
        try:
            shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.write(request(token))
            return int((await reader.readline()).split()[1]), shown
        finally:
            writer.close()

    async def until_accepted(self, token, seconds=SOON):
        async def holds():
            return (await self.status(token))[0] == 200

        return await until(f"{token} is accepted", holds, seconds)

    async def until_refused(self, token, seconds=SOON):
        async def holds():
            return (await self.status(token))[0] == 401

        return await until(f"{token} is refused", holds, seconds)


def in_seconds(seconds):
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)


async def rotations(start, times):
    """Rotations of a secret and the certificate under load.

    Each adds a new secret, moves clients to it, removes the old one, and replaces the certificate.
    """
    async with Upstream() as model:
        pod, gateway = await asyncio.to_thread(start, model.port)
        clients, changes, probes = Clients(gateway.port, pod.trust()), [], []

        async def probing():
            while True:
                probes.append((await asyncio.to_thread(probed, gateway, "/readyz"))[0])
                await asyncio.sleep(0.02)

        stays = key("stays", "sk-stays")
        async with clients.asking("sk-stays"), contextlib.AsyncExitStack() as leaving:
            probe = asyncio.create_task(probing())
            leaving.callback(probe.cancel)
            users = await leaving.enter_async_context(contextlib.AsyncExitStack())
            await users.enter_async_context(clients.asking("sk-rotated-0"))
            for number in range(1, times + 1):
                old, new = f"sk-rotated-{number - 1}", f"sk-rotated-{number}"
                both = key("rotated", new, previous=old, until=in_seconds(3600))
                pod.volumes["keys"].publish({"stays.yaml": stays, "rotated.yaml": both})
                changes.append(await clients.until_accepted(new))
                assert (await clients.status(old))[0] == 200, "the old secret works during its grace period"
                await clients.await_answers()
                movers = await leaving.enter_async_context(contextlib.AsyncExitStack())
                await movers.enter_async_context(clients.asking(new))
                await users.aclose()
                users = movers
                pod.volumes["keys"].publish({"stays.yaml": stays, "rotated.yaml": key("rotated", new)})
                changes.append(await clients.until_refused(old))
                await clients.await_answers()

                _, before = await clients.status("sk-stays")
                files = pod.certificate()
                pod.volumes["tls"].publish(files)
                expected = ssl.PEM_cert_to_DER_cert(files["tls.crt"].decode())

                async def is_shown(expected=expected):
                    return (await clients.status("sk-stays"))[1] == expected

                assert before != expected
                changes.append(await until("the new certificate is shown", is_shown))
                await clients.await_answers()
            # The kubelet's probes are open; other admin paths need the token.
            assert [probed(gateway, path)[0] for path in ("/livez", "/readyz", "/metrics", "/api/v1/keys")] == [
                200,
                200,
                401,
                401,
            ]
            code, metrics = probed(gateway, "/metrics", ADMIN)
            assert code == 200 and len(probes) > times and set(probes) == {200}, probes
        return clients, changes, metrics, gateway


def test_keys_and_certificates_rotate_under_load_and_no_request_fails(gateway_in):
    clients, changes, metrics, gateway = asyncio.run(rotations(gateway_in, ROTATIONS))
    assert not clients.failed, clients.failed[:5]
    assert clients.served > 250 * ROTATIONS and len(changes) == 3 * ROTATIONS
    assert max(changes) < SOON, changes
    for part, applied in (("keys", 2 * ROTATIONS), ("certificates", ROTATIONS)):
        assert f'bearward_reloads_total{{part="{part}",outcome="applied"}} {applied}\n' in metrics
        assert f'bearward_reloads_total{{part="{part}",outcome="refused"}} 0\n' in metrics
    assert not [line for line in gateway.lines if '"level":"ERROR"' in line]
    print(f"{clients.served} requests; a change was live in {max(changes):.2f} s at most")


async def ends(start):
    async with Upstream() as model:
        pod, gateway = await asyncio.to_thread(start, model.port)
        clients = Clients(gateway.port, pod.trust())
        async with clients.asking("sk-stays", 2):
            # The grace period ends by the clock, without a change of the files.
            end = in_seconds(2)
            both = key("rotated", "sk-rotated-1", previous="sk-rotated-0", until=end)
            pod.volumes["keys"].publish({"stays.yaml": key("stays", "sk-stays"), "rotated.yaml": both})
            await clients.until_accepted("sk-rotated-1", seconds=1.5)
            assert (await clients.status("sk-rotated-0"))[0] == 200
            await clients.until_refused("sk-rotated-0", seconds=5)
            late = (datetime.datetime.now(datetime.UTC) - end).total_seconds()
            assert (await clients.status("sk-rotated-1"))[0] == 200
            # A key that is removed from the Secret is revoked.
            pod.volumes["keys"].publish({"rotated.yaml": key("rotated", "sk-rotated-1"), "stays.yaml": key("stays", "sk-stays")})
            pod.volumes["keys"].publish({"stays.yaml": key("stays", "sk-stays")})
            revoked = await clients.until_refused("sk-rotated-1")
            # A ConfigMap with a fault is logged and changes nothing; the next good one is applied.
            pod.volumes["config"].publish({"config.yaml": re.sub("routes: .*", "routes: nonsense", pod.config)})

            async def is_logged():
                return any('"part":"config"' in line and "refused" in line for line in list(gateway.lines))

            await until("the fault is logged", is_logged)
            pod.volumes["config"].publish({"config.yaml": pod.config + "max_concurrent: 50\n"})

            async def is_applied():
                _, metrics = await asyncio.to_thread(probed, gateway, "/metrics", ADMIN)
                return 'bearward_reload_success{part="config"} 1.0' in metrics

            await until("the good one is applied", is_applied)
        return clients, late, revoked


def test_an_old_secret_ends_with_its_grace_and_a_bad_config_map_changes_nothing(gateway_in):
    clients, late, revoked = asyncio.run(ends(gateway_in))
    assert not clients.failed, clients.failed[:5]
    assert 0 <= late < 1 and revoked < SOON
    assert clients.served > 20
