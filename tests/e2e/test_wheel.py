"""The wheel: what it holds, that pip installs it, and that its program is found."""

import pathlib
import re
import subprocess
import sys
import tomllib
import venv
import zipfile

import pytest

from gateway import binary

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel with the binary under test."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([ROOT / "deploy/python/build.sh", binary(), sys.executable, out], check=True, timeout=300)
    [wheel] = out.iterdir()
    return wheel


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The interpreter of an environment in which the wheel is installed."""
    directory = tmp_path_factory.mktemp("environment")
    venv.create(directory, with_pip=True)
    python = directory / "bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-index", wheel], check=True, timeout=120)
    return python


def version():
    return subprocess.run([binary(), "version"], capture_output=True, text=True, check=True).stdout


def test_a_wheel_holds_the_program_its_manual_and_the_licences(wheel):
    assert wheel.name.startswith(f"bearward-{version().split()[1]}-py3-none-")
    names = zipfile.ZipFile(wheel).namelist()
    for end in ("scripts/bearward", "share/man/man1/bearward.1", "licenses/LICENSE-MIT", "licenses/LICENSE-APACHE", "py.typed"):
        assert [name for name in names if name.endswith(end)], (end, names)
    [others] = [name for name in names if name.endswith("licenses/THIRD-PARTY-LICENSES")]
    text = zipfile.ZipFile(wheel).read(others).decode()
    for crate, holder in (
        ("aws-lc-sys", "fiat-crypto authors"),  # in a directory of a directory
        ("governor", "Andreas Fuchs"),  # without a file: the text is the usual one
        ("hyper", "Sean McArthur"),
        ("tikv-jemalloc-sys", "Jason Evans"),
    ):
        [licence] = [part for part in parts(text) if re.search(rf"(^|, ){crate} [\d.]", part[0]) and holder in part[1]][:1]
        assert "without" in licence[1].lower(), "a whole text"
    checked = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", wheel], capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout


def parts(text):
    """The licences of a text: those to whom each belongs, and its words."""
    return [part.split(f"\n{'=' * 100}\n", 1) for part in text.split(f"\n\n{'=' * 100}\n")[1:]]


def test_the_tag_of_a_wheel_says_where_its_program_runs(wheel):
    # A program that needs the C library of this machine runs on no other: PyPI takes it not.
    is_static = subprocess.run(["ldd", binary()], capture_output=True).returncode != 0
    assert ("manylinux_2_28" in wheel.name) == is_static and ("-linux_" in wheel.name) != is_static


def test_the_installed_program_runs_by_its_name_its_module_and_its_path(python):
    by_name = [python.parent / "bearward", "version"]
    by_module = [python, "-m", "bearward", "version"]
    by_path = [python, "-c", "import bearward, subprocess; subprocess.run([bearward.find_bin(), 'version'], check=True)"]
    for command in (by_name, by_module, by_path):
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stdout) == (0, version()), done.stderr
    man = subprocess.run(["man", "--local-file", "--warnings", python.parents[1] / "share/man/man1/bearward.1"], capture_output=True, text=True, timeout=30)
    assert man.returncode == 0 and "bearward" in man.stdout


def test_the_program_is_found_where_pip_puts_it_for_other_targets(wheel, tmp_path):
    for option, place in (("--target", tmp_path / "target"), ("--prefix", tmp_path / "prefix")):
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", option, place, wheel]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        [package] = place.rglob("bearward/__init__.py")
        code = "import bearward; print(bearward.find_bin())"
        done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(package.parents[1]), "PATH": ""}, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0 and pathlib.Path(done.stdout.strip()).is_relative_to(place), done.stderr
        assert subprocess.run([done.stdout.strip(), "version"], capture_output=True, text=True).stdout == version()


def test_the_allocator_of_arm64_differs_in_its_pages_alone():
    lines = (ROOT / "deploy/arm64.env").read_text().splitlines()
    of_arm64 = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    usual = tomllib.loads((ROOT / ".cargo/config.toml").read_text())["env"]["JEMALLOC_SYS_WITH_MALLOC_CONF"]
    # Sixteen pages of 4 KiB are one of 64 KiB.
    slabs = usual.replace("slab_sizes:8192-8192:16", "slab_sizes:8192-8192:1")
    assert slabs != usual
    assert of_arm64 == {"JEMALLOC_SYS_WITH_LG_PAGE": "16", "JEMALLOC_SYS_WITH_MALLOC_CONF": slabs}
