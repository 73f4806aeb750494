"""A wheel for another machine: an emulator runs its program, whose demo answers. Called by `make wheel-arm64`."""

import pathlib
import subprocess
import sys
import tempfile
import threading
import zipfile

MOST_SECONDS = 120


def main(wheel, emulator):
    with tempfile.TemporaryDirectory(prefix="bearward-wheel-") as directory, zipfile.ZipFile(wheel) as packed:
        (name,) = [name for name in packed.namelist() if name.endswith(".data/scripts/bearward")]
        program = pathlib.Path(packed.extract(name, directory))
        program.chmod(0o755)
        command = [emulator, program]
        print(subprocess.run([*command, "version"], capture_output=True, text=True, check=True).stdout.strip())
        demo = subprocess.Popen([*command, "demo"], stdout=subprocess.PIPE, text=True)
        # The demo goes on, so its output has no end.
        limit = threading.Timer(MOST_SECONDS, demo.terminate)
        limit.start()
        try:
            assert any(answers(line) for line in iter(demo.stdout.readline, ""))
        finally:
            limit.cancel()
            demo.terminate()
            demo.wait()
    print(f"{pathlib.Path(wheel).name}: {pathlib.Path(wheel).stat().st_size / 1e6:.1f} MB; its demo answers with 200")


def answers(line):
    """Whether a command of the demo gets 200."""
    if not line.startswith("curl"):
        return False
    return " 200" in subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60).stdout.split("\n")[0]


if __name__ == "__main__":
    main(*sys.argv[1:])
