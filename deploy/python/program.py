"""Puts the program into the wheel, and names the platforms that it runs on."""

import pathlib
import struct

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Machines (ELF header, e_machine) as wheels name them.
MACHINES = {62: "x86_64", 183: "aarch64"}
INTERPRETER = 3


def platform_of(program):
    """The platform tag of an ELF program for 64 bits: a static one runs with every C library."""
    head = program.read_bytes()[:4096]
    if head[:4] != b"\x7fELF" or head[4] != 2:
        raise SystemExit(f"{program} is no ELF program for 64 bits")
    (machine,) = struct.unpack_from("<H", head, 18)
    (offset,) = struct.unpack_from("<Q", head, 32)
    size, number = struct.unpack_from("<HH", head, 54)
    kinds = [struct.unpack_from("<I", head, offset + index * size)[0] for index in range(number)]
    name = MACHINES[machine]
    if INTERPRETER in kinds:
        # It needs the C library of the machine that built it: PyPI takes no such wheel.
        return f"linux_{name}"
    return f"manylinux_2_28_{name}.musllinux_1_2_{name}"


class Program(BuildHookInterface):
    """The hook of the wheel."""

    def initialize(self, version, build_data):
        program = pathlib.Path(self.root) / "program"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform_of(program)}"
        build_data["shared_scripts"][str(program)] = "bearward"
