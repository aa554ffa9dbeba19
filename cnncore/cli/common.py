"""What the commands share: options, tables, progress."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from ..backends import select


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
        parser.add_argument("--backend", choices=select.NAMES, help=backend)
    return parser


def available() -> list[str]:
    """The backends that can be had here."""
    return [name for name in select.NAMES if select.why_not(name) is None]


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], left: int = 1) -> None:
    """A table on stdout; the first `left` columns are aligned left. Drawn by rich where it is installed."""
    cells = [[str(cell) for cell in row] for row in rows]
    if importlib.util.find_spec("rich"):
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title, title_justify="left")
        for i, column in enumerate(columns):
            table.add_column(column, justify="left" if i < left else "right")
        for row in cells:
            table.add_row(*map(Text, row))
        # Into a file or a pipe, a table keeps its columns, however many they are.
        Console(width=None if sys.stdout.isatty() else 160).print(table)
        return
    widths = [max(len(row[i]) for row in [list(columns), *cells]) for i in range(len(columns))]
    print(title)
    for row in [list(columns), *cells]:
        aligned = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        print("  ".join(aligned).rstrip())


class Step(Protocol):
    def __call__(self, text: str) -> None:
        """Say what is done next; everything said before is done."""


@contextmanager
def progress(total: int) -> Iterator[Step]:
    """A bar on stderr over `total` steps, gone when done: `with progress(3) as step: step("first"); ...`.

    Nothing is drawn where stderr is no terminal, or rich is not installed.
    """
    if not (sys.stderr.isatty() and importlib.util.find_spec("rich")):
        yield lambda text: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        started = False

        def step(text: str) -> None:
            nonlocal started
            bar.update(task, description=text, advance=1 if started else 0)
            started = True

        yield step
