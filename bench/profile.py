"""Release build of bearward with profile-guided optimisation.

An instrumented binary serves each of the bench's loads for some seconds. The release is then built
with its profile: branches taken, hot and cold code, and the order in which functions ran first, so
that a process touches few pages of the binary. That needs two builds and rustup's `llvm-tools`.
Without `llvm-tools`, the result is an ordinary release build, and a message says so.

With `--static`, the binary needs no other file: for containers FROM scratch, and for wheels.
"""

import argparse

import functools
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import loads
from subjects import ROOT, Bearward, Origin

WORK = ROOT / "target/profile"
PROFILES = WORK / "profiles"
OUT = ROOT / "target/profiled"
STATIC = "-Ctarget-feature=+crt-static"
SECONDS = 2
LOADS = {
    "GET": loads.get,
    "POST": functools.partial(loads.get, **loads.POST),
    "GET over TLS": functools.partial(loads.get, tls=True),
    "a connection each": functools.partial(loads.get, connection='"close"'),
    "handshakes": functools.partial(loads.get, tls=True, connection='"close"'),
    "HTTP/2": loads.http2,
    "10 MB": loads.big,
    "events": loads.events,
    "events over TLS": functools.partial(loads.events, tls=True),
}
# With keys that are restricted to models and limited in tokens.
GUARDED = {
    "chat": functools.partial(loads.get, **loads.CHAT),
    "chat events": functools.partial(loads.events, command="chat"),
}


def tool():
    sysroot = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, check=True).stdout.strip()
    return next(pathlib.Path(sysroot).glob("lib/rustlib/*/bin/llvm-profdata"), None)


def build(flags, target, is_static):
    # With a target of its own, the flags don't apply to build scripts and macros, which can't be static.
    host = subprocess.run(["rustc", "--print", "host-tuple"], capture_output=True, text=True, check=True).stdout.strip()
    of_target = ["--target", host] if is_static else []
    flags = f"{STATIC} {flags}".strip() if is_static else flags
    # The caller's environment, except for RUSTFLAGS, which must be the same for all crates.
    environment = {**os.environ, "RUSTFLAGS": flags} if flags else os.environ
    command = [os.environ.get("CARGO", "cargo"), "build", "--release", "--locked", "--target-dir", target, *of_target]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return target / (host if is_static else "") / "release/bearward"


def ordering(order):
    """The linker's flags for a list of functions; none if the linker (not LLVM's) has no such flag."""
    flags = f"-Clink-arg=-Wl,--symbol-ordering-file={order} -Clink-arg=-Wl,--no-warn-symbol-ordering"
    with tempfile.TemporaryDirectory(prefix="bearward-profile-") as directory:
        source = pathlib.Path(directory) / "main.rs"
        source.write_text("fn main() {}")
        tried = subprocess.run(["rustc", *flags.split(), "-o", f"{directory}/main", source], capture_output=True)
    if tried.returncode:
        print("the linker has no --symbol-ordering-file: functions stay in their order", file=sys.stderr)
    return "" if tried.returncode else flags


def train(binary):
    """Runs each load once against the instrumented binary, on one worker."""
    # Build scripts, which are instrumented, too, have written profiles of their own.
    shutil.rmtree(PROFILES, ignore_errors=True)
    os.environ["BEARWARD"] = str(binary)
    train_on(LOADS)
    train_on(GUARDED, guards=True)
    # With budgets that a state directory keeps, too.
    train_on(GUARDED, guards=True, kept=True)


def train_on(all_loads, **options):
    with tempfile.TemporaryDirectory(prefix="bearward-profile-") as directory:
        origin = Origin(pathlib.Path(directory), [0])
        subject = Bearward("bearward", pathlib.Path(directory), origin, 1, [1], **options)
        try:
            for name, load in all_loads.items():
                wrong = load(subject, origin, [0], SECONDS)["wrong"]
                if wrong:
                    raise SystemExit(f"{name}: {wrong}")
                print(f"  {name}", file=sys.stderr)
        finally:
            # The process writes its profile when it ends.
            subject.end()
            origin.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--static", action="store_true", help="a binary that needs no other file")
    is_static = parser.parse_args().static
    profdata = tool()
    if profdata is None:
        print("no llvm-profdata (`rustup component add llvm-tools`): an ordinary release build", file=sys.stderr)
        binary = build("", ROOT / "target", is_static)
    else:
        print("building the instrumented binary (some minutes) …", file=sys.stderr)
        flags = f"-Cprofile-generate={PROFILES} -Cllvm-args=-pgo-temporal-instrumentation"
        # What another build has left can't be merged with the profiles of this one.
        shutil.rmtree(PROFILES, ignore_errors=True)
        instrumented = build(flags, WORK, is_static)
        print("collecting the profile:", file=sys.stderr)
        train(instrumented)
        merged = WORK / "merged.profdata"
        subprocess.run([profdata, "merge", "-o", merged, PROFILES], check=True)
        order = WORK / "order"
        subprocess.run([profdata, "order", merged, "-o", order], check=True)
        print("building the release (some minutes) …", file=sys.stderr)
        binary = build(f"-Cprofile-use={merged} {ordering(order)}".strip(), WORK, is_static)
    OUT.mkdir(parents=True, exist_ok=True)
    out = OUT / ("bearward-static" if is_static else "bearward")
    shutil.copy2(binary, out)
    print(out.relative_to(ROOT))


if __name__ == "__main__":
    main()
