"""Commands in the documentation: each document runs as one shell session, beside a model server.

A block of `sh` is run. A block of `console` is run command by command, and the output must be the
documented one, where `…` matches any text. YAML whose first line is `# NAME.yaml` is written to
that file. A block that can't run here has a comment with the reason in front:
`<!-- elsewhere: REASON -->`.
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
BLOCK = re.compile(r"(?:<!-- elsewhere: (?P<reason>[^>]+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)```", re.S)
# Setup of each session: functions, and files that a reader has from earlier documents.
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
    """Commands of a console block, each with its output."""
    found = []
    for line in console.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def script(name):
    """The document as one shell script, and the expected output of each console command."""
    lines, expected = [BEFORE, GIVEN.get(name, "")], []
    for block in blocks(name):
        text = block["text"]
        if block["language"] == "yaml":
            first = re.match(r"# ([\w.-]+\.yaml)\n", text)
            # A key file with shortened hashes is only an illustration.
            if first and "…" not in text:
                if "listeners:" in text and "admin:" not in text:
                    # The default port may be in use by another process.
                    text += "admin: {address: 127.0.0.1:9090}\n"
                lines.append(f"cat > {first.group(1)} <<'END'\n{text}END")
            continue
        if block["language"] not in ("sh", "console") or block["reason"]:
            continue
        for command, output in commands(text) if block["language"] == "console" else [(text, None)]:
            command = re.sub(r"^(.*bearward run.*) &( .*)?$", lambda found: started(found[1]), command, flags=re.M)
            if "bearward init" in command:
                # What is written has the default port of the admin listener, too.
                command += "; sed -i 's/127.0.0.1:90''90/127.0.0.1:9090/' bearward.yaml"
            lines.append(command)
            if output is not None:
                lines[-1] = f"{{ {command}\n}} > output.{len(expected)} 2>&1 || true"
                expected.append((command, output))
    return "\n".join(lines), expected


def started(command):
    """Shell command that starts a server in the background and waits until it listens.

    Its admin listener gets port 9090, which the test maps to a free one.
    """
    listen = re.search(r"--listen [\d.]+:(\d+)", command)
    if "--upstream" in command:
        command += " --admin 127.0.0.1:9090" + ("" if listen else " --listen 127.0.0.1:8080")
        return f"{command} & listening {listen.group(1) if listen else 8080}"
    return f"{command} & listening 9090"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documented_commands_have_the_documented_results(name, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "bearward").symlink_to(binary())
    text, expected = script(name)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    environment.pop("BEARWARD_CONFIG", None)
    with model() as port:
        ports = {"8000": port, **{number: free_port() for number in ("8080", "8081", "8443", "9090")}}
        for number, free in ports.items():
            text = re.sub(rf"(127\.0\.0\.1:|listening ){number}\b", rf"\g<1>{free}", text)
        ran = subprocess.run(["bash", "-c", text], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    for index, (command, output) in enumerate(expected):
        printed = (tmp_path / f"output.{index}").read_text()
        wanted = "\n".join(output).strip()
        for number, free in ports.items():
            wanted = wanted.replace(f"127.0.0.1:{number}", f"127.0.0.1:{free}")
        pattern = "[^\n]*".join(re.escape(part) for part in wanted.split("…"))
        assert re.fullmatch(pattern, printed.strip()), f"{command}\nprinted:\n{printed}\nexpected:\n{wanted}"


def test_documented_make_targets_and_links_exist():
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    checked = 0
    for document in [*DOCUMENTS, "docs/performance.md", "SECURITY.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "deploy/README.md"]:
        text = (ROOT / document).read_text()
        for target in re.findall(r"(?:`|^)make ([a-z0-9-]+)", text, re.M):
            assert target in targets, f"{document}: make {target}"
            checked += 1
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if not link.startswith("http"):
                assert ((ROOT / document).parent / link).exists(), f"{document}: {link}"
                checked += 1
    assert checked > 40


@pytest.mark.parametrize("name", [*DOCUMENTS, "SECURITY.md"])
def test_yaml_blocks_are_yaml(name):
    for block in blocks(name):
        if block["language"] == "yaml":
            yaml.safe_load(block["text"])


def test_the_documented_sidecar_is_the_deployed_one():
    shown = next(block["text"] for block in blocks("README.md") if block["text"].startswith("initContainers:"))
    assert shown.strip() in textwrap.dedent((ROOT / "deploy/kubernetes/sidecar/deployment.yaml").read_text()).replace("\n      ", "\n")


def test_the_index_of_the_documentation_has_each_page_and_each_page_says_what_it_is_for():
    pages = sorted(path.name for path in (ROOT / "docs").glob("*.md") if path.name != "README.md")
    assert len(pages) > 10
    listed = re.findall(r"^\| \[([\w-]+\.md)\]\((.*?)\) \| (.+) \|$", (ROOT / "docs/README.md").read_text(), re.M)
    assert sorted(name for name, _, _ in listed) == pages and all(name == link for name, link, _ in listed)
    for page in pages:
        text = re.sub(r"<!--.*?-->", "", (ROOT / "docs" / page).read_text(), flags=re.S)
        title, first = [part for part in text.split("\n\n") if part.strip()][:2]
        assert title.startswith("# ") and re.match(r"[A-Z`]", first.strip()), (page, first)
