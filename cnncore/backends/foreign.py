"""Says of a compiled module that Python cannot load for which machine and which C library it was made."""

from __future__ import annotations

import platform
import sysconfig
from pathlib import Path

MACHINES = {
    3: "x86 (32 bits)",
    40: "arm (32 bits)",
    62: "x86_64",
    183: "aarch64",
    243: "riscv64",
    21: "ppc64",
    22: "s390x",
}
SAME = {"amd64": "x86_64", "arm64": "aarch64", "ppc64le": "ppc64"}  # other names of them


def why_not_loaded(module: Path, error: ImportError) -> str:
    """The reason, for a person: another system, machine or C library; else what Python says."""
    code = module.read_bytes()
    if platform.system() != "Linux" or not code:
        return str(error)
    if code[:4] != b"\x7fELF":
        return f"{module.name} is no program of Linux"
    made, here = _machine(code), platform.machine().lower()
    if made != SAME.get(here, here):
        return f"{module.name} was compiled for {made}, and this machine is {here}"
    made, here = _libc(code), _libc_here()
    if made != here:
        return f"{module.name} was compiled for the C library {made}, and this Python runs on {here}"
    return str(error)


def _machine(code: bytes) -> str:
    """The processor of an ELF file, from its header."""
    number = int.from_bytes(code[18:20], "little" if code[5] == 1 else "big")
    return MACHINES.get(number, f"machine {number} of ELF")


def _libc(code: bytes) -> str:
    """The C library that an ELF file asks for: glibc's is libc.so.6, and its symbols carry versions."""
    return "glibc" if b"libc.so.6\0" in code or b"GLIBC_2." in code else "musl"


def _libc_here() -> str:
    name = f"{sysconfig.get_config_var('SOABI')} {sysconfig.get_config_var('HOST_GNU_TYPE')}"
    return "musl" if "musl" in name else "glibc"
