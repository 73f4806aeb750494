"""Life of keys, with the real command line, files and curl."""

import concurrent.futures
import contextlib
import hashlib
import http.server
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import threading
import time

import pytest

from gateway import Gateway, binary, wait_for

TOKEN = re.compile(r"bwk_[0-9A-Za-z]{10}_[0-9A-Za-z]{38}")


def run(*args, check=True, stdin="", **more):
    command = [binary(), "keys", *map(str, args)]
    return subprocess.run(command, check=check, capture_output=True, text=True, input=stdin, timeout=60, **more)


def create(store, *args, **more):
    return run("create", "--keys", store, *args, **more).stdout.strip()


def sha256(token):
    return "sha256:" + hashlib.sha256(token.encode()).hexdigest()


@pytest.fixture(scope="module")
def upstream():
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"hi")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


@contextlib.contextmanager
def guarded(upstream, store, more="", config_more="", **options):
    config = f"keys: {{path: {store}{more}}}\n{config_more}"
    with Gateway(upstream, {}, config=config, **options) as gateway:
        yield gateway


def status(gateway, token):
    """Status of a request by curl, which reads the token from stdin rather than its arguments."""
    command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-K", "-", f"http://127.0.0.1:{gateway.port}/v1/models"]
    config = f'header = "Authorization: Bearer {token}"\n'
    return int(subprocess.run(command, capture_output=True, text=True, input=config, timeout=30).stdout)


def becomes(gateway, token, expected, within=1.5):
    """Seconds until a request with this token has the expected status."""
    started = time.monotonic()
    while (got := status(gateway, token)) != expected:
        assert time.monotonic() < started + within, f"{got}, expected {expected}"
    return time.monotonic() - started


def audited(gateway):
    events = [json.loads(line) for line in list(gateway.lines) if '"message":"audit"' in line]
    return {(event["event"], event.get("reason")) for event in events}


# Stores in which the command line can create keys.
@pytest.mark.parametrize("name", ["keys.yaml", "keys.jsonl", "keys"])
def test_the_whole_life_of_a_key_without_a_restart(tmp_path, upstream, name):
    store = tmp_path / name
    if name == "keys":
        store.mkdir()
    key = create(store, "--name", "checkout", "--preset", "production", "--rate", "600/1m", "--burst", "60")
    assert TOKEN.fullmatch(key)
    if store.is_file():
        assert store.stat().st_mode & 0o777 == 0o600
    with guarded(upstream, store) as gateway:
        assert status(gateway, key) == 200
        other = create(store, "--name", "other", "--permissions", "read")
        becomes(gateway, other, 200)
        new = run("rotate", "checkout", "--grace", "3s", "--keys", store).stdout.strip()
        becomes(gateway, new, 200)
        assert status(gateway, key) == 200, "both secrets work during the grace period"
        assert new[4:14] == key[4:14], "both secrets have the same id"
        becomes(gateway, key, 401, within=5)
        assert status(gateway, new) == 200
        verified = run("verify", "--keys", store, "--json", stdin=key, check=False)
        assert verified.returncode == 1 and json.loads(verified.stdout)["reason"] == "rotated_out"
        run("revoke", f"key_{new[4:14]}", "--keys", store)
        becomes(gateway, new, 401)
        assert run("verify", "--keys", store, stdin=new, check=False).returncode == 1
        assert "would be accepted" in run("verify", "--keys", store, stdin=other).stdout
        listed = {one["name"]: one for one in json.loads(run("list", "--keys", store, "--json").stdout)}
        assert (listed["checkout"]["state"], listed["other"]["state"]) == ("disabled", "active")
        run("delete", "checkout", "--keys", store)
        assert run("show", "checkout", "--keys", store, check=False).returncode == 1
        assert status(gateway, other) == 200
        last = run("delete", "other", "--keys", store, check=False)
        assert last.returncode == 1 and "revoke" in last.stderr, "the last key can't be deleted"
        expected = {("refused", "rotated_out"), ("refused", "disabled"), ("rotated_secret_used", None), ("new_address", None)}
        wait_for("the audit log has all events", lambda: expected <= audited(gateway))


def test_an_edit_changes_only_its_own_lines_of_a_file(tmp_path):
    store = tmp_path / "keys.yaml"
    store.write_text(
        "# Ask Ann first.\n\nkeys:   # all of them\n"
        f"# the checkout\n- id: key_aaaaaaaaaa   # trailing\n  name: \"checkout\"\n  hash: '{sha256('a')}'  # keep\n"
        "  permissions: &rw\n     - read\n     - write\n\n"
        f"# for the laptop\n-   # odd\n    {{id: key_bbbbbbbbbb, hash: \"{sha256('b')}\",\n     permissions: *rw, }}    # flow\n"
        "# the end\n"
    )
    original = store.read_text()

    def changed(*args):
        (tmp_path / "old").write_text(store.read_text())
        run(*args, "--keys", store)
        command = ["git", "diff", "--no-index", "--no-color", "-U0", "old", "keys.yaml"]
        lines = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout.splitlines()
        return [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]

    added = changed("create", "--name", "new one", "--permissions", "read")
    assert all(line.startswith("+") for line in added) and len(added) == 6, added
    assert len(changed("rotate", "checkout", "--grace", "1h")) == 5
    assert changed("revoke", "checkout") == ["+  disabled: true"]
    assert len(changed("revoke", "key_bbbbbbbbbb")) == 2
    gone = changed("delete", "new one")
    assert all(line.startswith("-") for line in gone), gone
    assert [line for line in original.splitlines() if line not in store.read_text().splitlines()] == [
        f"  hash: '{sha256('a')}'  # keep",
        "     permissions: *rw, }    # flow",
    ]


@pytest.mark.parametrize("name", ["keys.yaml", "keys.jsonl", "keys"])
def test_fifty_concurrent_commands_lose_no_key(tmp_path, name):
    store = tmp_path / name
    if name == "keys":
        store.mkdir()
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        made = list(pool.map(lambda number: create(store, "--name", f"n{number}", "--permissions", "read"), range(50)))
    assert len(set(made)) == 50
    listed = json.loads(run("list", "--keys", store, "--json").stdout)
    assert {one["id"] for one in listed} == {f"key_{token[4:14]}" for token in made}


@pytest.mark.parametrize("name", ["keys.yaml", "keys.jsonl"])
def test_a_command_that_is_killed_leaves_the_old_file_or_the_new_one(tmp_path, name):
    store = tmp_path / name
    create(store, "--permissions", "read")
    # Enough keys for a write to take measurable time.
    tokens = tmp_path / "tokens.txt"
    tokens.write_text("".join(f"sk-{number:020}\n" for number in range(3000)))
    run("import", tokens, "--keys", store)
    command = [binary(), "keys", "create", "--permissions", "read", "--keys", str(store)]
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    lasts = time.monotonic() - started
    made, before = 0, store.read_bytes()
    for _ in range(100):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # The kill must hit at a random moment of the command, so this test needs a real sleep.
        time.sleep(random.random() * lasts * 1.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        after = store.read_bytes()
        assert after == before or (after.startswith(before) and after.count(b"key_") == before.count(b"key_") + 1)
        made += after != before
        before = after
    create(store, "--permissions", "read")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "tokens.txt"]), "no temporary file remains"
    assert len(json.loads(run("list", "--keys", store, "--json").stdout)) == 3003 + made


def test_a_full_disk_leaves_the_old_file_whole(tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(tmp_path)], capture_output=True).returncode:
        pytest.skip("a small file system needs root")
    try:
        store = tmp_path / "keys.yaml"
        create(store, "--permissions", "read")
        before = store.read_bytes()
        with contextlib.suppress(OSError):
            (tmp_path / "filler").write_bytes(b"x" * 65536)
        refused = run("create", "--permissions", "read", "--keys", store, check=False)
        assert refused.returncode == 1 and refused.stdout == ""
        assert "No space left" in refused.stderr and "nothing was changed" in refused.stderr
        assert store.read_bytes() == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["filler", "keys.yaml"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_read_only_store_prints_a_key_to_add_by_hand(tmp_path, upstream):
    store = tmp_path / "keys.yaml"
    first = create(store, "--name", "first", "--permissions", "read")
    as_nobody = {}
    if os.geteuid() == 0:
        as_nobody = {"user": 65534, "group": 65534, "extra_groups": []}
        for path in [tmp_path, *tmp_path.parents]:
            path.chmod(path.stat().st_mode | 0o055)
        store.chmod(0o644)
    tmp_path.chmod(0o555)
    before = store.read_bytes()
    refused = run("create", "--name", "ci", "--permissions", "read", "--keys", store, check=False, **as_nobody)
    tmp_path.chmod(0o755)
    assert refused.returncode == 1 and store.read_bytes() == before
    assert "by hand" in refused.stderr
    # The printed entry works once it is in the store.
    entry = refused.stderr[refused.stderr.index("  - id:") :].split("\n\n")[0]
    store.write_text(before.decode() + entry + "\n")
    with guarded(upstream, store) as gateway:
        assert (status(gateway, refused.stdout.strip()), status(gateway, first)) == (200, 200)


class Mounted:
    """Secret in the kubelet's mount layout."""

    def __init__(self, root):
        self.root, self.version = root, 0
        root.mkdir()

    def publish(self, files):
        """Replaces all files at once, as the kubelet does."""
        self.version += 1
        version = self.root / f"..2026_{self.version}"
        version.mkdir()
        for name, text in files.items():
            (version / name).write_text(text)
        (self.root / "..data_tmp").symlink_to(version.name)
        (self.root / "..data_tmp").rename(self.root / "..data")
        for name in files:
            if not (self.root / name).is_symlink():
                (self.root / name).symlink_to(pathlib.Path("..data") / name)
        for path in self.root.iterdir():
            if not path.name.startswith("..") and path.name not in files:
                path.unlink()


def one_key(name, token, more=""):
    return f"id: key_{name}\nname: {name}\nhash: {sha256(token)}\npermissions: [read]\n{more}"


def test_a_mounted_secret_is_reloaded_and_never_written(tmp_path, upstream):
    mounted = Mounted(tmp_path / "keys")
    mounted.publish({"a": one_key("a", "sk-a"), "b": one_key("b", "sk-b")})
    with guarded(upstream, mounted.root) as gateway:
        assert (status(gateway, "sk-a"), status(gateway, "sk-b")) == (200, 200)
        mounted.publish({"a": one_key("a", "sk-a", "disabled: true\n"), "b": "id: nonsense\n", "c": one_key("c", "sk-c")})
        becomes(gateway, "sk-a", 401)
        becomes(gateway, "sk-c", 200)
        assert status(gateway, "sk-b") == 200, "the last good version of a faulty entry stays"
        mounted.publish({"c": one_key("c", "sk-c")})
        becomes(gateway, "sk-b", 401)
        for command in (["create", "--permissions", "read"], ["rotate", "c"], ["revoke", "c"]):
            refused = run(*command, "--keys", mounted.root, check=False)
            assert refused.returncode == 1 and "kubectl" in refused.stderr and "id: key_" in refused.stderr
        assert status(gateway, "sk-c") == 200
    # The same for a single file in such a mount.
    (tmp_path / "keys" / "..data" / "keys.yaml").write_text(f"keys:\n- {{id: key_x, hash: {sha256('x')}, permissions: [read]}}\n")
    (tmp_path / "keys" / "keys.yaml").symlink_to("..data/keys.yaml")
    refused = run("revoke", "key_x", "--keys", mounted.root / "keys.yaml", check=False)
    assert refused.returncode == 1 and "kubectl" in refused.stderr and "disabled: true" in refused.stderr


def yaml_of(keys):
    return "keys:\n" + "".join(f"  - {{id: key_{name}, hash: {sha256(f'sk-{name}')}, permissions: [read]}}\n" for name in keys)


def lines_of(keys):
    line = {"permissions": ["read"]}
    return "".join(json.dumps(line | {"id": f"key_{name}", "hash": sha256(f"sk-{name}")}) + "\n" for name in keys)


def text_of(keys):
    return "# ours\n" + "".join(f"sk-{name}\n" for name in keys)


STORES = {
    "keys.yaml": (yaml_of, "keys: [{id: x, hash: SECRET}\n"),
    "keys.jsonl": (lines_of, '"id": "x", "hash": "SECRET"\n'),
    "keys.txt": (text_of, "a SECRET line\n"),
    "keys": (None, "id: x\nhash: SECRET\n"),
}


@pytest.mark.parametrize("name", STORES)
def test_every_kind_of_store_behaves_alike(tmp_path, upstream, name):
    form, bad = STORES[name]
    store = tmp_path / name

    def write(keys, text=None, in_place=False):
        if name == "keys":
            store.mkdir(exist_ok=True)
            for path in store.iterdir():
                if path.name not in keys and text is None:
                    path.unlink()
            for key in keys:
                new = tmp_path / "new"
                new.write_text(text or one_key(key, f"sk-{key}"))
                new.rename(store / key)
        elif in_place:
            store.write_text(text or form(keys))
        else:
            new = tmp_path / "new"
            new.write_text(text or form(keys))
            new.rename(store)

    write(["a", "b"])
    more = ", allow_plaintext: true" if name == "keys.txt" else ""
    with guarded(upstream, store, more, admin=True) as gateway:
        assert [status(gateway, token) for token in ("sk-a", "sk-b", "sk-c", "sk-a ")] == [200, 200, 401, 200]
        write(["b", "c"])
        becomes(gateway, "sk-a", 401)
        becomes(gateway, "sk-c", 200)
        write(["b", "d"], in_place=True)
        becomes(gateway, "sk-c", 401)
        becomes(gateway, "sk-d", 200)
        write(["b"] if name == "keys" else [], text=bad)
        wait_for("the fault is logged", lambda: any("refused" in line and '"part":"keys"' in line for line in gateway.lines))
        assert [status(gateway, token) for token in ("sk-b", "sk-d")] == [200, 200], "the last good keys stay"
        assert not any("SECRET" in line for line in gateway.lines)
        write(["b"])
        becomes(gateway, "sk-d", 401)
    if name == "keys.txt":
        checked = subprocess.run([binary(), "run", "--upstream", "http://127.0.0.1:1", "--keys", str(store)], capture_output=True, text=True)
        assert checked.returncode == 78 and "allow_plaintext" in checked.stderr


def test_imported_keys_are_stored_as_hashes(tmp_path, upstream):
    store = tmp_path / "keys.yaml"
    lists = {
        "llama.txt": "sk-llama-0123456789\n",
        ".env": "export VLLM_API_KEY='sk-vllm-0123456789'\nDATABASE_URL=postgres://sk-database\n",
        "nginx.conf": 'map $http_authorization $who {\n  default "";\n  "Bearer sk-nginx-0123456789" team-n;\n}\n',
        "litellm.json": json.dumps([{"key": "sk-litellm-0123456789", "key_alias": "team-l", "rpm_limit": 60}]),
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        imported = run("import", tmp_path / name, "--keys", store)
        assert "sk-" not in imported.stdout + imported.stderr
    assert "sk-" not in store.read_text()
    names = {one["name"] for one in json.loads(run("list", "--keys", store, "--json").stdout)}
    assert names == {None, "vllm-api-key", "team-n", "team-l"}
    with guarded(upstream, store) as gateway:
        for token in ("sk-llama-0123456789", "sk-vllm-0123456789", "sk-nginx-0123456789", "sk-litellm-0123456789"):
            assert status(gateway, token) == 200
        assert status(gateway, "postgres://sk-database") == 401
    again = run("import", tmp_path / "llama.txt", "--keys", store)
    assert "are in the store already" in again.stderr


def test_no_secret_and_no_digest_is_anywhere_but_where_it_belongs(tmp_path, upstream):
    """Causes all kinds of output, at the most verbose log level, and searches it for secrets."""
    store = tmp_path / "keys.yaml"
    output = []
    tokens = []

    def command(*args, **more):
        done = run(*args, "--keys", store, check=False, **more)
        tokens.extend(TOKEN.findall(done.stdout))
        output.append(done.stderr + TOKEN.sub("", done.stdout))

    command("create", "--name", "a", "--permissions", "read")
    command("create", "--name", "a", "--permissions", "read")
    command("create", "--name", "admin", "--permissions", "admin", "--max-concurrent", "1", "--rate", "5/1m/1")
    command("create", "--name", "gone", "--permissions", "read", "--expires-in", "1ms")
    command("rotate", "a", "--grace", "1h")
    command("rotate", "nobody")
    for token in [*tokens, "bwk_mistyped", "sk-unknown"]:
        command("verify", stdin=token)
        command("hash", stdin=token)
        output[-1] = output[-1].replace(sha256(token), "")
        done = run("revoke", token, "--keys", store, check=False)
        assert done.returncode == (2 if TOKEN.fullmatch(token) else 1), done
        output.append(done.stdout + done.stderr)
    command("list")
    command("list", "--json")
    command("show", "a")
    config = "log: {level: trace, format: json}\nauth: {headers: [authorization, x-api-key]}\n"
    with guarded(upstream, store, "", config_more=config, admin=True) as gateway:
        ask = lambda *args: subprocess.run(["curl", "-s", "-i", "--path-as-is", *args], capture_output=True, text=True, timeout=30).stdout
        base = f"http://127.0.0.1:{gateway.port}"
        for token in [*tokens, tokens[0][:-1] + "x", "bwk_short", "sk-unknown-0123456789"]:
            for path in ("/v1/models", "/nowhere", "/a/../%2e%2e/%ff%00", f"/v1/models?key={token}"):
                output.append(ask(f"{base}{path}", "-H", f"Authorization: Bearer {token}"))
            output.append(ask(base, "-H", f"Authorization: Bearer {token}", "-H", f"Authorization: Bearer {token}x"))
            output.append(ask(base, "-H", f"Authorization: Basic {token}"))
            output.append(ask(base, "-H", f"x-api-key: {token}, {token}"))
            output.append(ask(base, "-X", "DELETE", "-H", f"x-api-key: {token}"))
            admin = f"http://127.0.0.1:{gateway.admin_port}"
            output.append(ask(f"{admin}/api/v1/reload", "-X", "POST", "-H", f"Authorization: Bearer {token}"))
            output.append(ask(f"{admin}/metrics", "-H", f"Authorization: Bearer {token}"))
        good = store.read_text()
        for bad in (good.replace("permissions", "permisions"), good + good, good[:-20], good.replace("sha256:", "")):
            store.write_text(bad)
            output.append(json.dumps(gateway.reload()))
        store.write_text(good)
        gateway.reload()
        output.append(pathlib.Path(f"/proc/{gateway.process.pid}/cmdline").read_text())
        output.extend(gateway.lines)
    output = "\n".join(output)
    for expected in ("INVALID_API_KEY", "EXPIRED_API_KEY", "MISSING_API_KEY", "BAD_REQUEST", "ROUTE_NOT_FOUND", '"audit"', "twice"):
        assert expected in output, expected
    for token in [*tokens, "sk-unknown-0123456789"]:
        secret = token[15:47] if token.startswith("bwk_") else token
        for needle in (token, secret, sha256(token)[7:]):
            assert needle not in output, output[max(0, output.index(needle) - 300) : output.index(needle) + 100]
