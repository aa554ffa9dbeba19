"""How far a run is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self

from .errors import install_hint


class Progress:
    """A bar of `total` steps with time left and a line of text, while the `with` block runs.

    Where stdout is no terminal, or rich is not installed, `advance` shows nothing and `line` prints; with `quiet`
    neither does.
    """

    def __init__(self, total: int, done: int = 0, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar = None if quiet or not sys.stdout.isatty() else _rich_bar()
        if self._bar is not None:
            self._task = self._bar.add_task("", total=total, completed=done)

    def advance(self, steps: int, text: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, advance=steps, description=text)

    def line(self, text: str) -> None:
        """A line that stays, above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        elif not self._quiet:
            print(text, flush=True)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _rich_bar() -> Any:
    try:
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar
    except ImportError:
        print(f"(for a progress bar: {install_hint('train')})", flush=True)
        return None
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Bar(*columns, transient=True)
