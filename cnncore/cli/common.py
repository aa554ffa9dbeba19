"""What the commands share: options, tables, who computes."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..backends import select
from ..errors import CnncoreError
from ..ops import relu

HOST = ("numpy", "c")  # a network on the device, and its limits, are not for the command line yet


def add_command(
    commands: Any, name: str, summary: str, example: str, backend: str | None = None
) -> argparse.ArgumentParser:
    """A command's parser: help that ends with an example, --json, and --backend where `backend` says what it does."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else, on stdout")
    if backend:
        parser.add_argument("--backend", choices=HOST, help=backend)
    return parser


def available() -> list[str]:
    """The backends that can be had here."""
    return [name for name in select.NAMES if select.why_not(name) is None]


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], left: int = 1) -> None:
    """A table on stdout; the first `left` columns are aligned left. Drawn by rich where it is installed."""
    cells = [[str(cell) for cell in row] for row in rows]
    print(f"\n{title}")
    if importlib.util.find_spec("rich"):
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table()
        for i, column in enumerate(columns):
            table.add_column(column, justify="left" if i < left else "right")
        for row in cells:
            table.add_row(*map(Text, row))
        Console(width=console_width()).print(table)
        return
    widths = [max(len(row[i]) for row in [list(columns), *cells]) for i in range(len(columns))]
    for row in [list(columns), *cells]:
        aligned = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        print("  ".join(aligned).rstrip())


def console_width() -> int | None:
    """None, the terminal's own width; in a file or a pipe a table keeps all its columns."""
    return None if sys.stdout.isatty() else 200


def chosen_backend() -> str:
    """Who computes when nobody is asked for by name."""
    return relu(np.zeros(1, np.float32))[1].backend


def require(module: str, extra: str) -> None:
    """Raise CnncoreError, saying how to get it, where a library is missing that is needed only much later."""
    if not importlib.util.find_spec(module):
        raise CnncoreError(f"{module} is not installed: pip install 'cnncore[{extra}]'")
