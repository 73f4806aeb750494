"""Files that a service may not read, that everybody may change, and stores that come from a Secret."""

import json
import os
import pathlib
import shutil
import subprocess

import pytest

from gateway import binary

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
NOBODY, GROUP = 65534, 1


def run(*args, user=None, **options):
    ids = {"user": user, "group": user, "extra_groups": []} if user else {}
    environment = {name: value for name, value in os.environ.items() if name != "BEARWARD_CONFIG"}
    return subprocess.run([binary(), *map(str, args)], capture_output=True, text=True, timeout=30, env=environment, **ids, **options)


@pytest.fixture
def etc():
    """A directory that every user reaches, with a configuration; pytest's own are for one user."""
    directory = pathlib.Path(f"/tmp/bearward-permissions-{os.getpid()}")
    directory.mkdir(mode=0o755)
    lines = ["listeners: [{address: '127.0.0.1:0'}]", "upstreams: [{name: m, endpoints: ['http://127.0.0.1:1']}]"]
    lines += [f"keys: {{path: {directory}/keys.yaml}}", f"admin: {{address: '127.0.0.1:0', token_file: {directory}/token}}", "routes: openai"]
    (directory / "config.yaml").write_text("\n".join(lines))
    (directory / "token").write_text("7Jx-quoted-horse-Battery-staple-91")
    assert run("keys", "create", "--keys", directory / "keys.yaml", "--permissions", "read", "--expires-in", "90d").returncode == 0
    yield directory
    shutil.rmtree(directory)


@needs_root
@pytest.mark.parametrize("name", ["config.yaml", "keys.yaml", "token"])
def test_a_file_that_may_not_be_read_is_told_with_its_owner_and_a_remedy(etc, name):
    os.chmod(etc / "keys.yaml", 0o644)
    os.chmod(etc / name, 0o600)
    check = run("check", "--config", etc / "config.yaml", user=NOBODY)
    assert check.returncode == 78 and "Permission denied" in check.stderr, check.stderr
    assert f"{etc}/{name} is root:root with the mode 0600" in check.stderr and "chmod g+r" in check.stderr, check.stderr
    assert "keys create" not in check.stderr


@needs_root
def test_a_directory_that_may_not_be_entered_is_told(etc):
    os.chmod(etc, 0o750)
    check = run("check", "--config", etc / "config.yaml", user=NOBODY)
    assert check.returncode == 78 and f"{etc} is root:root with the mode 0750" in check.stderr, check.stderr


def test_a_missing_file_is_told_with_what_is_missing(etc):
    os.rename(etc / "token", etc / "other")
    check = run("check", "--config", etc / "config.yaml")
    assert check.returncode == 78 and "make it, or name another path" in check.stderr, check.stderr


@needs_root
@pytest.mark.parametrize("name", ["new.yaml", "new.jsonl", "store/"])
def test_new_files_of_root_can_be_read_by_the_group_of_their_directory(etc, name):
    os.chown(etc, 0, GROUP)
    os.chmod(etc, 0o750)
    if name == "store/":
        (etc / name).mkdir()
        os.chown(etc / name, 0, GROUP)
        os.chmod(etc / name, 0o750)
    before = set(etc.rglob("*"))
    assert run("keys", "create", "--keys", etc / name, "--permissions", "read").returncode == 0
    run("keys", "verify", "--keys", etc / name, input="sk-unknown-0123456789")
    made = [path for path in set(etc.rglob("*")) - before if path.is_file() and "lock" not in path.name]
    assert made
    for path in made:
        found = path.stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (0, GROUP, 0o640), path


def test_a_change_of_a_mounted_secret_is_a_patch_of_its_own_file(tmp_path):
    (tmp_path / "..1").mkdir()
    for name in ("a", "b"):
        store = tmp_path / name
        store.mkdir()
        assert run("keys", "create", "--keys", store, "--name", name, "--permissions", "read").returncode == 0
        [made] = [path for path in store.iterdir() if path.suffix == ".yaml"]
        shutil.copy(made, tmp_path / "..1" / f"{name}.yaml")
        shutil.rmtree(store)
    (tmp_path / "..data").symlink_to("..1")
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").symlink_to(f"..data/{name}.yaml")
    revoked = run("keys", "revoke", "a", "--keys", tmp_path)
    assert revoked.returncode == 1 and "--dry-run" not in revoked.stderr and "disabled: true" in revoked.stderr
    deleted = run("keys", "delete", "a", "--keys", tmp_path)
    for done in (revoked, deleted):
        [command] = [part for part in done.stderr.split("`") if "kubectl patch" in part]
        shell = f'kubectl() {{ printf %s "$7"; }}; {command}'
        patch = json.loads(subprocess.run(["sh", "-c", shell], cwd=tmp_path, capture_output=True, text=True, check=True).stdout)
        assert list(patch) == ["data"] and list(patch["data"]) == ["a.yaml"], patch
    assert patch == {"data": {"a.yaml": None}}, "a deleted key's file is removed"


@pytest.mark.parametrize("damage", [lambda token: token[:-1], lambda token: token + "x", lambda token: token[:-1] + ("a" if token[-1] != "a" else "b")])
def test_a_damaged_token_is_mistyped(etc, damage):
    made = run("keys", "create", "--keys", etc / "keys.yaml", "--permissions", "read").stdout.strip()
    verified = run("keys", "verify", "--json", "--keys", etc / "keys.yaml", input=damage(made))
    assert json.loads(verified.stdout)["reason"] == "mistyped", verified.stderr


def test_keys_create_without_permissions_names_the_presets(etc):
    done = run("keys", "create", "--keys", etc / "keys.yaml")
    assert done.returncode == 2 and "--preset" in done.stderr and "--permissions" in done.stderr


def test_a_key_that_is_turned_off_gets_no_new_secret_and_no_way_to_turn_its_old_one_on(etc):
    keys = etc / "keys.yaml"
    run("keys", "create", "--keys", keys, "--name", "a", "--permissions", "read")
    run("keys", "revoke", "a", "--keys", keys)
    done = run("keys", "rotate", "a", "--keys", keys)
    assert done.returncode == 1 and done.stdout == "", done
    # The old secret may be the reason why the key was revoked.
    assert "`bearward keys create` makes another key" in done.stderr and "disabled" not in done.stderr, done.stderr
