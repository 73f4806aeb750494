"""`bearward demo`: every printed line does what is said above it."""

import re
import subprocess

import pytest
from gateway import binary


@pytest.fixture(scope="module")
def steps():
    demo = subprocess.Popen([binary(), "demo", "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
    lines = []
    while len([line for line in lines if line.startswith("curl ")]) < 9:
        line = demo.stdout.readline()
        assert line, lines
        lines.append(line.rstrip("\n"))
    said = [line for line in lines if line.startswith("# ")]
    yield list(zip(said, [line for line in lines if line.startswith("curl ")], strict=True))
    demo.terminate()
    demo.wait()


def test_every_line_gives_what_it_says(steps):
    for said, line in steps:
        printed = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=20)
        assert printed.returncode == 0, printed.stderr
        promised = re.findall(r"\b[2-5]\d\d\b", said)
        if "%{http_code}" in line:
            assert printed.stdout.split() == promised, said
            continue
        assert [re.match(r"HTTP/\S+ (\d+)", printed.stdout).group(1)] == promised, said
        for code in re.findall(r"[A-Z]+(?:_[A-Z]+)+", said):
            assert f'"code":"{code}"' in printed.stdout, said
        if "Retry-After" in said:
            assert re.search(r"(?i)^retry-after: \d+", printed.stdout, re.M)
        if "streams" in said:
            assert printed.stdout.count("data: ") > 5 and "[DONE]" in printed.stdout
