"""`bearward demo`: every printed command has the result that the comment above it states."""

import re
import subprocess

import pytest
from gateway import binary


@pytest.fixture(scope="module")
def steps():
    demo = subprocess.Popen([binary(), "demo", "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
    lines = []
    while len([line for line in lines if line.startswith("curl ")]) < 12:
        line = demo.stdout.readline()
        assert line, lines
        lines.append(line.rstrip("\n"))
    comments = [line for line in lines if line.startswith("# ")]
    yield list(zip(comments, [line for line in lines if line.startswith("curl ")], strict=True))
    demo.terminate()
    demo.wait()


def test_every_command_has_the_result_that_its_comment_states(steps):
    for comment, line in steps:
        printed = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=20)
        assert printed.returncode == 0, printed.stderr
        expected = re.findall(r"\b[2-5]\d\d\b", comment)
        if "%{http_code}" in line:
            assert printed.stdout.split() == expected, comment
            continue
        assert [re.match(r"HTTP/\S+ (\d+)", printed.stdout).group(1)] == expected, comment
        for code in re.findall(r"[A-Z]+(?:_[A-Z]+)+", comment):
            assert f'"code":"{code}"' in printed.stdout, comment
        if "Retry-After" in comment:
            assert re.search(r"(?i)^retry-after: \d+", printed.stdout, re.M)
        if "streams" in comment:
            assert printed.stdout.count("data: ") > 5 and "[DONE]" in printed.stdout
