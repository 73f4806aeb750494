#!/bin/sh
# Makes a wheel of a program: deploy/python/build.sh PROGRAM PYTHON DIRECTORY [EMULATOR]
# EMULATOR runs the program here, if it is one for another machine.
set -eu
program=$1 python=$2 out=$3 emulator=${4-}
root=$(cd "$(dirname "$0")/../.." && pwd)
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir -p "$out"
cp -r "$root/deploy/python/bearward" "$root/deploy/python/pyproject.toml" "$root/deploy/python/README.md" \
    "$root/deploy/python/program.py" "$root/Cargo.toml" "$root"/LICENSE-* "$stage"
install -m 0755 "$program" "$stage/program"
"$python" "$root/deploy/licences.py" >"$stage/THIRD-PARTY-LICENSES"
$emulator "$program" man >"$stage/bearward.1"
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$out" "$stage"
ls -l "$out"/bearward-*.whl
