"""Static binary of the container image, in a directory with the files of image and mounts only.

`make test-static` builds the binary, which takes minutes, and sets BEARWARD_STATIC to its path.
Without BEARWARD_STATIC, the tests are skipped.
"""

import os
import re
import shutil
import socketserver
import subprocess
import threading

import pytest

from deployed import DEPLOY, answering
from gateway import ROOT, Gateway, free_port, wait_for

STATIC = os.environ.get("BEARWARD_STATIC")
pytestmark = pytest.mark.skipif(not STATIC, reason="`make test-static` builds the binary")
# Address of the name server. Its port is always 53, so it has an address of its own.
NAMES = "127.53.53.53"


def run(*command, **more):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, **more)


class Names(socketserver.BaseRequestHandler):
    """Name server that knows only the address of `model`."""

    def handle(self):
        asked, answers = self.request
        end = asked.index(b"\0", 12) + 5
        question = asked[12:end]
        name, kind = question[:-4], question[-4:-2]
        is_model, is_address = name == b"\x05model\0", kind == b"\0\x01"
        code = b"\x81\x80" if is_model else b"\x81\x83"
        found = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x7f\0\0\x01" if is_model and is_address else b""
        counts = b"\0\x01" + (b"\0\x01" if found else b"\0\0") + b"\0\0\0\0"
        answers.sendto(asked[:2] + code + counts + question + found, self.client_address)


@pytest.fixture
def image(tmp_path):
    """Image as a directory: root, command prefix to run in it, bearward's port, and a key."""
    root = tmp_path / "image"
    keys = root / "run/secrets/bearward/keys"
    for directory in (root / "etc/bearward", keys):
        directory.mkdir(parents=True)
    shutil.copy(ROOT / STATIC, root / "bearward")
    keys.chmod(0o750)
    os.chown(keys, 65532, 65532)
    # As the Dockerfile makes it.
    state = root / "var/lib/bearward"
    state.mkdir(parents=True, mode=0o700)
    os.chown(state, 65532, 65532)
    # Created by root on the host: the file gets the owner of the directory.
    key = Gateway.create(keys, "laptop", "--permissions", "read")
    (root / "etc/resolv.conf").write_text(f"nameserver {NAMES}\n")
    text, port = (DEPLOY / "docker/config/config.yaml").read_text(), free_port()
    with answering() as model, socketserver.ThreadingUDPServer((NAMES, 53), Names) as names:
        for old, new in (
            ("- address: 0.0.0.0:8080", f"- address: 0.0.0.0:{port}"),
            ("address: 127.0.0.1:9090", f"address: 127.0.0.1:{free_port()}"),
            ("http://model:8080", f"http://model:{model}"),
        ):
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (root / "etc/bearward/config.yaml").write_text(text)
        threading.Thread(target=names.serve_forever, daemon=True).start()
        yield root, ["chroot", "--userspec=65532:65532", str(root), "/bearward"], port, key
        names.shutdown()


def test_the_static_binary_needs_no_other_files(image):
    root, command, port, key = image
    assert "statically linked" in run("ldd", root / "bearward").stdout
    done = run(*command, "check")
    assert done.returncode == 0 and "no faults" in done.stderr, done.stderr
    assert run(*command, "healthcheck").returncode == 1, "bearward is not running yet"
    log = root.parent / "log"
    with open(log, "w") as file:
        process = subprocess.Popen([*command, "run"], stderr=file)
        try:
            wait_for("bearward is ready", lambda: '"ready"' in log.read_text() or process.poll() is not None)
            assert process.poll() is None, log.read_text()
            with open(f"/proc/{process.pid}/status") as state:
                assert re.search(r"(?m)^Uid:\t65532\t65532\t", state.read())
            url = f"http://127.0.0.1:{port}/v1/models"
            assert run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url).stdout == "401"
            # Upstream is resolved by name.
            answered = run(
                "curl", "-s", "-w", " %{http_code}", "-K", "-", url, input=f'header = "Authorization: Bearer {key}"\n'
            )
            assert answered.stdout == "ok 200", answered.stdout
            for probe in ([], ["--ready"]):
                assert run(*command, "healthcheck", *probe).returncode == 0
            process.terminate()
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
            process.wait()
    held = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    written = [path for path in held if path.startswith("var/lib/bearward/state/")]
    assert {"var/lib/bearward/state/journal", "var/lib/bearward/state/lock"} <= set(written)
    # `keys create` made the secret of the ids of unknown credentials.
    keys = [f"run/secrets/bearward/keys/{name}" for name in (".bearward-id-secret", "laptop.yaml")]
    assert [path for path in held if path not in written] == ["bearward", "etc/bearward/config.yaml", "etc/resolv.conf", *keys]
