"""A wheel on a bare Debian 12 without a compiler and without a network: from `pip install` to the first answer.

Called by `make test-wheel`. Needs root and debootstrap, as the test of the package does.
"""

import pathlib
import subprocess
import sys
import threading
import time

from package import ROOT, base, overlay, run

BASE = ROOT / "target" / "package" / "debian-python"
# Only the loopback device, which a new network namespace has turned off.
WITHOUT_NETWORK = ["unshare", "--net", "sh", "-c", 'ip link set lo up 2>/dev/null; exec "$@"', "sh"]
MOST_BYTES = 12_000_000
MOST_SECONDS = 10


def main(wheel):
    wheel = pathlib.Path(wheel)
    base(BASE, "python3,python3-venv,curl,iproute2")
    with overlay(BASE) as root:
        assert not list(root.glob("usr/bin/*gcc*")) and not list(root.glob("usr/bin/cargo"))
        run("cp", wheel, root / "tmp")
        chroot = [*WITHOUT_NETWORK, "chroot", str(root)]
        run(*chroot, "python3", "-m", "venv", "/opt/bearward")
        began = time.monotonic()
        run(*chroot, "/opt/bearward/bin/pip", "install", "--quiet", "--no-index", f"/tmp/{wheel.name}")
        installed = time.monotonic() - began
        demo = subprocess.Popen([*chroot, "/opt/bearward/bin/bearward", "demo"], stdout=subprocess.PIPE, text=True)
        # The demo goes on, so its output has no end.
        limit = threading.Timer(10 * MOST_SECONDS, demo.terminate)
        limit.start()
        try:
            assert any(answers(demo.pid, root, line) for line in iter(demo.stdout.readline, ""))
            seconds = time.monotonic() - began
        finally:
            limit.cancel()
            demo.terminate()
            demo.wait()
    size = wheel.stat().st_size
    print(f"{wheel.name}: {size / 1e6:.1f} MB; installed in {installed:.1f} s; the first 200 after {seconds:.1f} s")
    assert size <= MOST_BYTES and seconds <= MOST_SECONDS


def answers(pid, root, line):
    """Whether a command of the demo gets 200, in the demo's network and file system."""
    if not line.startswith("curl"):
        return False
    command = ["nsenter", "--net", "--target", str(pid), "chroot", str(root), "sh", "-c", line]
    return " 200" in subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.split("\n")[0]


if __name__ == "__main__":
    main(*sys.argv[1:])
