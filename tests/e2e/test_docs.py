"""All that the documentation says to type is typed: each document is one shell session, beside a little model server.

A block of `sh` is run; one of `console` is run line by line, and what it prints must be what stands there, where `…` stands for
anything. YAML whose first line is `# NAME.yaml` becomes that file, and one that has listeners must be valid. What can't be run
here says why in a comment in front: `<!-- elsewhere: WHY -->`.
"""

import os
import re
import subprocess
import textwrap

import pytest
import yaml

from gateway import ROOT, binary, free_port
from test_page import model

DOCUMENTS = ["README.md", "docs/keys.md", "docs/moving.md", "docs/operations.md"]
BLOCK = re.compile(r"(?:<!-- elsewhere: (?P<why>[^>]+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)```", re.S)
# Each document begins with what a reader has by then.
BEFORE = """
set -eo pipefail
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
listening() { for attempt in $(seq 500); do (exec 3<>/dev/tcp/127.0.0.1/$1) 2>/dev/null && return; sleep 0.02; done; exit 9; }
"""
GIVEN = {
    "docs/operations.md": """
printf 'listeners: [{address: 127.0.0.1:8080}]\\nupstreams: [{name: model, endpoints: [http://127.0.0.1:8000]}]\\nkeys: {path: keys.yaml}\\n' > bearward.yaml
printf 'admin: {address: 127.0.0.1:9090, token_file: admin.token}\\n' >> bearward.yaml
printf the-admin-token > admin.token; chmod 600 admin.token
bearward keys create --name checkout --permissions read > /dev/null
bearward run & listening 9090
"""
}


def blocks(name):
    return [match.groupdict() for match in BLOCK.finditer((ROOT / name).read_text())]


def commands(console):
    """Of a console: each command with what it prints."""
    said = []
    for line in console.splitlines():
        if line.startswith("$ "):
            said.append((line[2:], []))
        else:
            said[-1][1].append(line)
    return said


def script(name):
    """The document as one shell session, and what each of its consoles promises."""
    lines, promised = [BEFORE, GIVEN.get(name, "")], []
    for block in blocks(name):
        text = block["text"]
        if block["language"] == "yaml":
            first = re.match(r"# ([\w.-]+\.yaml)\n", text)
            # A key file with hashes left out is for reading.
            if first and "…" not in text:
                if "listeners:" in text and "admin:" not in text:
                    # Its usual place may be somebody else's.
                    text += "admin: {address: 127.0.0.1:9090}\n"
                lines.append(f"cat > {first.group(1)} <<'END'\n{text}END")
            continue
        if block["language"] not in ("sh", "console") or block["why"]:
            continue
        for command, output in commands(text) if block["language"] == "console" else [(text, None)]:
            command = re.sub(r"^(.*bearward run.*) &( .*)?$", lambda found: started(found[1]), command, flags=re.M)
            lines.append(command)
            if output is not None:
                lines[-1] = f"{{ {command}\n}} > output.{len(promised)} 2>&1 || true"
                promised.append((command, output))
    return "\n".join(lines), promised


def started(command):
    """A server in the background, as soon as it listens; its admin listener where it is in nobody's way."""
    listen = re.search(r"--listen [\d.]+:(\d+)", command)
    if "--upstream" in command:
        command += " --admin 127.0.0.1:9090" + ("" if listen else " --listen 127.0.0.1:8080")
        return f"{command} & listening {listen.group(1) if listen else 8080}"
    return f"{command} & listening 9090"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_it_says_to_type_does_what_it_says(name, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "bearward").symlink_to(binary())
    text, promised = script(name)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    environment.pop("BEARWARD_CONFIG", None)
    with model() as port:
        ports = {"8000": port, **{number: free_port() for number in ("8080", "8081", "8443", "9090")}}
        for number, free in ports.items():
            text = re.sub(rf"(127\.0\.0\.1:|listening ){number}\b", rf"\g<1>{free}", text)
        ran = subprocess.run(["bash", "-c", text], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    for index, (command, output) in enumerate(promised):
        printed = (tmp_path / f"output.{index}").read_text()
        wanted = "\n".join(output).strip()
        for number, free in ports.items():
            wanted = wanted.replace(f"127.0.0.1:{number}", f"127.0.0.1:{free}")
        pattern = "[^\n]*".join(re.escape(part) for part in wanted.split("…"))
        assert re.fullmatch(pattern, printed.strip()), f"{command}\nprinted:\n{printed}\nand not:\n{wanted}"


def test_what_cannot_be_run_here_is_there():
    """Of the rest: targets of make exist, files and links, too."""
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    looked_at = 0
    for document in [*DOCUMENTS, "docs/performance.md", "SECURITY.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "deploy/README.md"]:
        text = (ROOT / document).read_text()
        for target in re.findall(r"(?:`|^)make ([a-z0-9-]+)", text, re.M):
            assert target in targets, f"{document}: make {target}"
            looked_at += 1
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if not link.startswith("http"):
                assert ((ROOT / document).parent / link).exists(), f"{document}: {link}"
                looked_at += 1
    assert looked_at > 40


@pytest.mark.parametrize("name", [*DOCUMENTS, "SECURITY.md"])
def test_its_yaml_is_yaml(name):
    for block in blocks(name):
        if block["language"] == "yaml":
            yaml.safe_load(block["text"])


def test_the_sidecar_that_it_shows_is_the_one_that_is_deployed():
    shown = next(block["text"] for block in blocks("README.md") if block["text"].startswith("initContainers:"))
    assert shown.strip() in textwrap.dedent((ROOT / "deploy/kubernetes/sidecar/deployment.yaml").read_text()).replace("\n      ", "\n")
