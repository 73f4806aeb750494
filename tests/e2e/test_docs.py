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

DOCUMENTS = sorted(
    str(path.relative_to(ROOT)) for pattern in ("*.md", "docs/**/*.md", "deploy/**/*.md") for path in ROOT.glob(pattern)
)
# In a list, a block is indented.
BLOCK = re.compile(
    r"(?:^ *<!-- elsewhere: (?P<reason>[^>]+) -->\n)?^(?P<indent> *)```(?P<language>\w+)\n(?P<text>.*?)^ *```$", re.S | re.M
)
# Setup of each session: functions, and files that a reader has from earlier documents.
BEFORE = """
set -eo pipefail
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
listening() { for attempt in $(seq 500); do (exec 3<>/dev/tcp/127.0.0.1/$1) 2>/dev/null && return; sleep 0.02; done; exit 9; }
"""
BASIC = """
printf 'listeners: [{address: 127.0.0.1:8080}]\\nupstreams: [{name: model, endpoints: [http://127.0.0.1:8000]}]\\nkeys: {path: keys.yaml}\\n' > bearward.yaml
"""
GIVEN = {
    "docs/budgets.md": BASIC + """
printf 'admin: {address: 127.0.0.1:9090}\\nstate: {path: state}\\ngroups: [{name: team-a, budgets: [{tokens: 500M, every: month, zone: Europe/Berlin}]}]\\n' >> bearward.yaml
bearward keys create --name first --permissions read > /dev/null
bearward run & listening 9090
""",
    "docs/doors.md": "bearward keys create --keys keys.yaml --name first --permissions read > /dev/null\n",
    "docs/keys.md": "redis-server --port 6379 --bind 127.0.0.1 --save '' > redis.log & listening 6379\n",
    "docs/models-and-tokens.md": BASIC + """
printf '{"model": "llama-3-8b", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 100}' > request.json
""",
    "docs/operations.md": BASIC + """
printf 'admin: {address: 127.0.0.1:9090, token_file: admin.token}\\n' >> bearward.yaml
printf the-admin-token > admin.token; chmod 600 admin.token
bearward keys create --name checkout --permissions read > /dev/null
bearward run & listening 9090
"""
}


def blocks(name):
    found = [match.groupdict() for match in BLOCK.finditer((ROOT / name).read_text())]
    return [{**block, "text": textwrap.dedent(block["text"])} for block in found]


def runs(block):
    return block["language"] in ("sh", "console") and not block["reason"]


# Documents with commands that run here.
SESSIONS = [name for name in DOCUMENTS if any(runs(block) for block in blocks(name))]


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
        if not runs(block):
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


@pytest.mark.parametrize("name", SESSIONS)
def test_documented_commands_have_the_documented_results(name, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "bearward").symlink_to(binary())
    text, expected = script(name)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    environment.pop("BEARWARD_CONFIG", None)
    with model() as port:
        ports = {"8000": port, **{number: free_port() for number in ("6379", "8080", "8081", "8443", "9090")}}
        for number, free in ports.items():
            text = re.sub(rf"(127\.0\.0\.1:|listening |--port ){number}\b", rf"\g<1>{free}", text)
        ran = subprocess.run(["bash", "-c", text], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    for index, (command, output) in enumerate(expected):
        printed = (tmp_path / f"output.{index}").read_text()
        wanted = "\n".join(output).strip()
        for number, free in ports.items():
            wanted = wanted.replace(f"127.0.0.1:{number}", f"127.0.0.1:{free}")
        pattern = "[^\n]*".join(re.escape(part) for part in wanted.split("…"))
        assert re.fullmatch(pattern, printed.strip()), f"{command}\nprinted:\n{printed}\nexpected:\n{wanted}"


def test_documented_make_targets_exist():
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = [(name, target) for name in DOCUMENTS for target in re.findall(r"(?:`|^)make ([a-z0-9-]+)", prose(name), re.M)]
    assert len(named) > 40 and [(name, target) for name, target in named if target not in targets] == []


def prose(name):
    return (ROOT / name).read_text()


def anchors(path):
    """Names of the headings of a page, as GitHub makes them."""
    text = re.sub(r"^ *```.*?^ *```$", "", path.read_text(), flags=re.S | re.M)
    found = []
    for heading in re.findall(r"^#+ (.*)$", text, re.M):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.append(f"{name}-{found.count(name)}" if name in found else name)
    return found


def test_every_link_leads_to_a_file_and_a_heading():
    checked, broken = 0, []
    for name in DOCUMENTS:
        text = re.sub(r"^ *```.*?^ *```$|`[^`\n]*`", "", prose(name), flags=re.S | re.M)
        for link, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", text):
            if "://" in link or link.startswith("mailto:"):
                continue
            path = (ROOT / name).parent / link if link else ROOT / name
            checked += 1
            if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
                broken.append((name, link, anchor))
    assert checked > 200 and broken == []


@pytest.mark.parametrize("name", DOCUMENTS)
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
