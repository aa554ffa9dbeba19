"""`cnncore info`: what is installed, what this machine is, and who can compute what."""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..backends import select
from ..ops.records import registry
from ..tables import print_table
from .common import add_command, available, print_json


def add_parser(commands: Any) -> None:
    add_command(commands, "info", "Show version, machine, backends, and which op runs where.", "cnncore info --json")


def collect() -> dict[str, Any]:
    """All of it, ready for JSON."""
    native = None
    if select.why_not("c") is None:
        from ..backends import native as module

        native = module.info()
    return {
        "version": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "backends": {name: (select.why_not(name) or "available").removeprefix(f"{name}: ") for name in select.NAMES},
        "native": native,
        "ops": {name: {backend: _directions(op, backend) for backend in available()} for name, op in registry.items()},
    }


def cpu() -> str:
    """The processor's name."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _directions(op: Any, backend: str) -> str:
    reason = select.load(backend).missing(op)
    return reason or ("forward, backward" if op.backward is not None else "forward (no gradient)")


def run(args: argparse.Namespace) -> int:
    found = collect()
    if args.json:
        print_json(found)
        return 0
    for name in ("version", "python", "numpy", "system", "cpu", "cores"):
        print(f"{name:16}{found[name]}")
    for name, state in found["backends"].items():
        print(f"{name:16}{state}")
    for name, value in (found["native"] or {}).items():
        print(f"c {name:14}{', '.join(map(str, value)) if isinstance(value, list | tuple) else value}")
    backends = available()
    rows = [[name, *(cells[b] for b in backends)] for name, cells in found["ops"].items()]
    print_table("ops", ["op", *backends], rows, left=1 + len(backends))
    return 0
