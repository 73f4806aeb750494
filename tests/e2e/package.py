"""Test of the Debian package in a separate Debian system: install, run as the unit does, purge.

Called by `make test-package`. debootstrap makes the system once, below `target/package`. A run sees
it through an overlay and never changes it. A run also has its own network namespace, so that the
addresses in the package's configuration are free.
"""

import contextlib
import http.server
import os
import pathlib
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BASE = ROOT / "target" / "package" / "debian"
# Paths that dpkg and its helpers own.
OWN = re.compile(
    r"/(var/(lib/dpkg|log|cache)/|etc/(passwd|shadow|group|gshadow|subuid|subgid)-|etc/ld\.so\.cache|etc/\.pwd\.lock|run/)"
)


def run(*command, **more):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=1200, **more)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def base(system=BASE, packages="adduser"):
    """Makes a Debian system with few packages, and without a compiler."""
    if not system.exists():
        print("making a Debian system (once, a minute or two) …", flush=True)
        half = system.with_suffix(".part")
        shutil.rmtree(half, ignore_errors=True)
        half.parent.mkdir(parents=True, exist_ok=True)
        run("debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", half)
        half.rename(system)


@contextlib.contextmanager
def overlay(system=BASE):
    with tempfile.TemporaryDirectory(prefix="bearward-package-") as directory:
        directory = pathlib.Path(directory)
        run("mount", "-t", "tmpfs", "tmpfs", directory)
        try:
            for name in ("upper", "work", "root"):
                (directory / name).mkdir()
            root = directory / "root"
            layers = f"lowerdir={system},upperdir={directory}/upper,workdir={directory}/work"
            run("mount", "-t", "overlay", "overlay", "-o", layers, root)
            run("mount", "-t", "proc", "proc", root / "proc")
            yield root
        finally:
            run("umount", "--recursive", "--lazy", directory)


def inside(root, *command, user=None, **more):
    as_user = [f"--userspec={user}:{user}"] if user else []
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    command = ["chroot", *as_user, root, *command]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120, env=environment, **more)


def state(root):
    """Owner, group and mode of every path, and the users and groups."""
    found = {}
    for directory, names, files in os.walk(root):
        names[:] = [
            name for name in names if os.path.join(directory, name) not in (f"{root}/proc", f"{root}/sys", f"{root}/dev")
        ]
        for name in names + files:
            path = os.path.join(directory, name)
            inner = path[len(str(root)) :]
            if not OWN.match(inner + "/"):
                status = os.lstat(path)
                found[inner] = (status.st_uid, status.st_gid, oct(status.st_mode))
    found["users"] = sorted((root / "etc/passwd").read_text().splitlines() + (root / "etc/group").read_text().splitlines())
    return found


def of_unit(text, name):
    [value] = re.findall(rf"(?m)^{name}=(.*)$", text)
    return value


def status(path, token=None, port=8080):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Bearer {token}"} if token else {}
    )
    try:
        return urllib.request.urlopen(request, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code


class Model(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


def installed(root, deb):
    """Installs the package and checks the installed files; returns the unit's text."""
    (root / "tmp/bearward.deb").write_bytes(pathlib.Path(deb).read_bytes())
    done = inside(root, "dpkg", "-i", "/tmp/bearward.deb")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bearward keys create" in done.stdout, "the output names the first command"
    unit = (root / "usr/lib/systemd/system/bearward.service").read_text()
    wants = root / "etc/systemd/system"
    assert (wants / "multi-user.target.wants/bearward.service").is_symlink()
    assert not (wants / "sockets.target.wants/bearward.socket").is_symlink(), "the socket unit is not enabled by default"
    user = of_unit(unit, "User")
    uid = int(inside(root, "id", "-u", user).stdout)
    gid = int(inside(root, "id", "-g", user).stdout)
    assert 0 < uid < 1000 and f"{user}:x:{uid}:{gid}:" in (root / "etc/passwd").read_text()
    files = {"config.yaml": 0o100640, "keys.yaml": 0o100640, ".bearward-id-secret": 0o100640}
    for path, mode in {"etc/bearward": 0o40750, **{f"etc/bearward/{name}": mode for name, mode in files.items()}}.items():
        status = (root / path).stat()
        assert (status.st_uid, status.st_gid, status.st_mode) == (0, gid, mode), path
    for path in (
        "usr/share/man/man1/bearward.1.gz",
        "usr/share/bash-completion/completions/bearward",
        "usr/share/doc/bearward/copyright",
        "usr/share/doc/bearward/third-party.gz",
        # As long as bearward makes one.
        "etc/bearward/.bearward-id-secret",
    ):
        assert (root / path).stat().st_size > 42, path
    return unit


def allowed_calls(unit):
    """System calls that the unit's filter allows, according to systemd-analyze."""

    def members(name):
        if not name.startswith("@"):
            return {name}
        lines = [line.strip() for line in run("systemd-analyze", "syscall-filter", name).splitlines()[1:]]
        return set().union(*(members(line) for line in lines if line and not line.startswith("#")))

    found = members("@default")
    for words in re.findall(r"(?m)^SystemCallFilter=(.*)$", unit):
        is_denied, words = words.startswith("~"), words.removeprefix("~").split()
        for word in words:
            found = found - members(word) if is_denied else found | members(word)
    return found


def served(root, unit):
    """Runs the unit's ExecStart as its user; returns the system calls that the unit denies."""
    user, command = of_unit(unit, "User"), shlex.split(of_unit(unit, "ExecStart"))
    # The package makes this directory as systemd makes it at each start.
    directory = root / "var/lib" / of_unit(unit, "StateDirectory")
    owner, group = (int(inside(root, "id", option, user).stdout) for option in ("-u", "-g"))
    status_of, mode = directory.stat(), 0o40000 | int(of_unit(unit, "StateDirectoryMode"), 8)
    assert (status_of.st_uid, status_of.st_gid, status_of.st_mode) == (owner, group, mode)
    keys = of_unit(unit, "ConditionFileNotEmpty")
    assert (root / keys.lstrip("/")).stat().st_size == 0, "with an empty key file, the unit's condition prevents the start"
    refused = inside(root, *command, user=user)
    assert refused.returncode == int(of_unit(unit, "RestartPreventExitStatus")) == 78, refused.stderr

    # The command that the postinst prints.
    made = inside(root, "bearward", "keys", "create", "--name", "laptop", "--permissions", "read")
    assert made.returncode == 0, made.stderr
    store = (root / keys.lstrip("/")).stat()
    assert store.st_size > 0 and store.st_mode == 0o100640 and store.st_gid != 0, "the service can read it"
    token = made.stdout.strip()
    checked = inside(root, "bearward", "check", user=user)
    assert checked.returncode == 0, checked.stderr

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, tempfile.NamedTemporaryFile("r") as calls:
        notify.bind(str(root / "run/notify"))
        (root / "run/notify").chmod(0o777)
        notify.settimeout(30)
        traced = ["strace", "-f", "-qq", "-o", calls.name, "chroot", f"--userspec={user}:{user}", str(root), *command]
        process = subprocess.Popen(
            traced, env={"NOTIFY_SOCKET": "/run/notify", "PATH": "/usr/sbin:/usr/bin"}, stderr=subprocess.DEVNULL
        )
        try:
            assert b"READY=1" in notify.recv(4096)
            child = int(run("pgrep", "-P", process.pid))
            assert (status("/v1/models"), status("/v1/models", token), status("/livez", port=9090)) == (401, 200, 200)
            assert inside(root, "bearward", "healthcheck", user=user).returncode == 0
            os.kill(child, 1)
            assert b"RELOADING=1" in notify.recv(4096) and b"READY=1" in notify.recv(4096)
            revoked = inside(root, "bearward", "keys", "revoke", "laptop")
            assert revoked.returncode == 0, revoked.stderr
            end = time.monotonic() + 10
            while status("/v1/models", token) != 401:
                assert time.monotonic() < end, "a revoked key is refused"
                time.sleep(0.05)
            os.kill(child, 15)
            assert process.wait(30) == 0
            assert (directory / "state/journal").exists()
        finally:
            process.kill()
            process.wait()
        lines = calls.read().splitlines()
    started = next(number for number, line in enumerate(lines) if f'execve("{command[0]}"' in line)
    called = {found[1] for line in lines[started:] if (found := re.match(r"\d+ +(\w+)\(", line))}
    assert len(called) > 30
    return called - allowed_calls(unit)


def main(deb):
    run("ip", "link", "set", "lo", "up")
    model = http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Model)
    threading.Thread(target=model.serve_forever, daemon=True).start()
    with overlay() as root:
        before = state(root)
        unit = installed(root, deb)
        denied = served(root, unit)
        assert not denied, f"the unit's filter denies {denied}"
        # A second installation keeps changed files.
        config, keys = root / "etc/bearward/config.yaml", (root / "etc/bearward/keys.yaml").read_bytes()
        config.write_text(config.read_text() + "# ours\n")
        assert inside(root, "dpkg", "-i", "/tmp/bearward.deb").returncode == 0
        assert config.read_text().endswith("# ours\n") and (root / "etc/bearward/keys.yaml").read_bytes() == keys
        assert inside(root, "dpkg", "--remove", "bearward").returncode == 0
        assert config.exists() and not (root / "usr/bin/bearward").exists()
        purged = inside(root, "dpkg", "--purge", "bearward")
        assert purged.returncode == 0 and "warning" not in purged.stderr, purged.stderr
        (root / "tmp/bearward.deb").unlink()
        after = state(root)
        changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        assert changed == set(), changed
    print("installed, ran as the unit does, and purged: 401 without a key, 200 with one; the unit denied no call")


if __name__ == "__main__":
    if os.environ.get("BEARWARD_ISOLATED") is None:
        base()
        os.execvpe(
            "unshare", ["unshare", "--mount", "--net", sys.executable, *sys.argv], {**os.environ, "BEARWARD_ISOLATED": "1"}
        )
    main(sys.argv[1])
