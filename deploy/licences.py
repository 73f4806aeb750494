"""Writes the licences of all crates that are in the program, as text: deploy/licences.py >FILE

A licence's text that several crates have is there once. Needs cargo, and the crates' sources as cargo keeps them.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
CARGO = os.environ.get("CARGO", "cargo")
# Names of files with a licence; a crate that holds a C library has the library's one directory below.
NAME = re.compile(r"(un)?licen[cs]e|copying|notice|copyright", re.IGNORECASE)
LINE = "=" * 100


def crates():
    """The crates in the program, each with its version, its licence as SPDX has it, and its directory."""
    host = subprocess.run(["rustc", "--print", "host-tuple"], capture_output=True, text=True, check=True).stdout.strip()
    command = [CARGO, "metadata", "--format-version", "1", "--locked", "--filter-platform", host]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    found, left = set(), [root]
    while left:
        for dependency in nodes[left.pop()]["deps"]:
            # What only builds or tests the program is not in it.
            is_in_program = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            if is_in_program and dependency["pkg"] not in found:
                found.add(dependency["pkg"])
                left.append(dependency["pkg"])
    for package in sorted((packages[each] for each in found), key=lambda package: (package["name"], package["version"])):
        yield package["name"], package["version"], package["license"], pathlib.Path(package["manifest_path"]).parent


def texts(directory):
    """The texts of the licences in a crate."""
    files = [file for pattern in ("*", "*/*") for file in sorted(directory.glob(pattern))]
    for file in files:
        if NAME.match(file.name) and file.is_file() and file.suffix not in {".rs", ".py", ".json", ".toml"}:
            yield file.read_text(errors="replace").strip()


def main():
    owners, names = {}, []
    for name, version, licence, directory in crates():
        names.append(f"{name} {version}: {licence}")
        for text in texts(directory):
            # Copies differ in their line breaks and in how they are indented.
            owners.setdefault(" ".join(text.split()), (text, []))[1].append(f"{name} {version}")
    print("bearward holds these crates of Rust, each with its licence as SPDX names it:\n")
    print("\n".join(names))
    for text, of in owners.values():
        print(f"\n{LINE}\n{', '.join(dict.fromkeys(of))}\n{LINE}\n\n{text}")
    if not owners:
        sys.exit("no text of a licence is found")


if __name__ == "__main__":
    main()
