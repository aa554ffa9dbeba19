"""What the commands share: options, JSON, who computes."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from typing import Any

import numpy as np

from .. import __version__
from ..backends import native, select
from ..errors import CnncoreError, install_hint
from ..ops import relu

HOST = ("numpy", "c")  # a network on the device, and its limits, are not for the command line yet


def add_group(commands: Any, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    """A parser without options, whose help ends with an example."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def add_command(
    commands: Any, name: str, summary: str, example: str, backend: str | None = None
) -> argparse.ArgumentParser:
    """A command's parser: --json, --debug, and --backend where `backend` says what it does."""
    parser = add_group(commands, name, summary, example)
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else, on stdout")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    if backend:
        parser.add_argument("--backend", choices=HOST, help=backend)
    return parser


def available() -> list[str]:
    """The backends that can be had here."""
    return [name for name in select.NAMES if select.why_not(name) is None]


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def chosen_backend() -> str:
    """Who computes when nobody is asked for by name."""
    return relu(np.zeros(1, np.float32))[1].backend


def environment() -> dict[str, Any]:
    """What decides a run's outcome besides its options. Call it where the backend is chosen."""
    backend = chosen_backend()
    return {
        "backend": backend,
        "native": native.info() if backend == "c" else None,
        "version": __version__,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
    }


def require(module: str, extra: str) -> None:
    """Raise CnncoreError, saying how to get it, where a library is missing that is needed only much later."""
    if not importlib.util.find_spec(module):
        raise CnncoreError(f"{module} is not installed: {install_hint(extra)}")
