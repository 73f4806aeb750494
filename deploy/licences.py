"""Writes the licences of all crates that are in the program, as text: deploy/licences.py >FILE

A text that several crates have is there once. Needs rustc, cargo, and the crates' sources as cargo keeps them.
"""

import html
import json
import os
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[1]
CARGO = os.environ.get("CARGO", "cargo")
# The machines of releases; what is only built on one of them is listed, too.
TARGETS = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu")
# A crate that holds a C library has the library's licences in directories below.
NAME = re.compile(r"(un)?licen[cs]e|copying|notice|copyright", re.IGNORECASE)
SOURCES = {".rs", ".c", ".h", ".cc", ".go", ".py", ".pl", ".sh", ".js", ".json", ".toml", ".yml", ".patch"}
LINE = "=" * 100
# A crate without a file names its licence in Cargo.toml: then the text is that of bearward's own.
OWN = {"MIT": ROOT / "LICENSE-MIT", "Apache-2.0": ROOT / "LICENSE-APACHE"}
FOREWORD = """bearward contains Rust's standard library and these crates (name, version, licence as SPDX writes it), whose licences
follow. A program that is linked statically contains the GNU C Library, too, which is under the LGPL-2.1-or-later: its
source is at https://www.gnu.org/software/libc/ and at https://sources.debian.org/src/glibc/, and bearward's source
links with any other version of it.
"""


def output(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def crates():
    """The crates in the program, as cargo describes them."""
    platforms = [word for target in TARGETS for word in ("--filter-platform", target)]
    metadata = json.loads(output(CARGO, "metadata", "--format-version", "1", "--locked", *platforms))
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    found, left = set(), [metadata["resolve"]["root"]]
    while left:
        for dependency in nodes[left.pop()]["deps"]:
            kinds = {kind for target in packages[dependency["pkg"]]["targets"] for kind in target["kind"]}
            # What builds or tests the program is not in it: build scripts, macros, and what only these use.
            is_in_program = any(kind["kind"] is None for kind in dependency["dep_kinds"]) and "proc-macro" not in kinds
            if is_in_program and dependency["pkg"] not in found:
                found.add(dependency["pkg"])
                left.append(dependency["pkg"])
    return sorted((packages[each] for each in found), key=lambda package: (package["name"], package["version"]))


def texts(package):
    """The texts of the licences of a crate; fails if there is none."""
    directory = pathlib.Path(package["manifest_path"]).parent
    files = [file for file in sorted(directory.rglob("*")) if NAME.match(file.name) and file.is_file()]
    found = [file.read_text(errors="replace").strip() for file in files if file.suffix not in SOURCES]
    if found:
        return found
    named = re.split(r"[^\w.-]+", package["license"])
    [own] = [text for name, text in OWN.items() if name in named][:1]
    authors = ", ".join(package["authors"]) or f"the authors of {package['name']}"
    text = own.read_text()
    # The first lines of the MIT licence name bearward.
    text = text.split("\n\n", 2)[-1] if own == OWN["MIT"] else text
    return [f"Copyright (c) {authors}\n\n{text.strip()}"]


def of_standard_library():
    """The licences of Rust's standard library; where they are, if this toolchain has none."""
    page = pathlib.Path(output("rustc", "--print", "sysroot").strip()) / "share/doc/rust/COPYRIGHT-library.html"
    if not page.exists():
        return "MIT OR Apache-2.0: https://github.com/rust-lang/rust/blob/main/COPYRIGHT"
    text = html.unescape(re.sub(r"<[^>]*>", "", page.read_text()))
    return re.sub(r"\n\s*\n+", "\n\n", text).strip()


def main():
    in_program = crates()
    owners = {}
    found = [("Rust's standard library", [of_standard_library()])]
    found += [(f"{package['name']} {package['version']}", texts(package)) for package in in_program]
    for name, of_crate in found:
        for text in of_crate:
            # Copies differ in their line breaks and in how they are indented.
            owners.setdefault(" ".join(text.split()), (text, []))[1].append(name)
    print(FOREWORD)
    print("\n".join(f"{package['name']} {package['version']}: {package['license']}" for package in in_program))
    for text, of in owners.values():
        print(f"\n{LINE}\n{', '.join(dict.fromkeys(of))}\n{LINE}\n\n{text}")


if __name__ == "__main__":
    main()
