"""Tables: on stdout, drawn by rich where it is installed; and in notebooks."""

from __future__ import annotations

import html
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], left: int = 1) -> None:
    """A table on stdout; the first `left` columns are aligned left."""
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


def html_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], left: int = 1) -> str:
    """A table for a notebook; the first `left` columns are aligned left."""

    def line(tag: str, cells: Iterable[Any]) -> str:
        parts = (
            f'<{tag} style="text-align: {"left" if i < left else "right"}">{html.escape(str(cell))}</{tag}>'
            for i, cell in enumerate(cells)
        )
        return f"<tr>{''.join(parts)}</tr>"

    return (
        f"<table><thead>{line('th', columns)}</thead><tbody>{''.join(line('td', row) for row in rows)}</tbody></table>"
    )


def console_width() -> int | None:
    """None, the terminal's own width; in a file or a pipe a table keeps all its columns."""
    return None if sys.stdout.isatty() else 200
