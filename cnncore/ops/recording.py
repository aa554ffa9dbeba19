"""Which ops are called inside a block: for summaries, and to see what a loss consists of."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Call:
    """One op call, as `recording` sees it: FLOPs of the forward, and bytes of all its results."""

    name: str
    flops: int
    bytes: int


recorded: contextvars.ContextVar[list[Call] | None] = contextvars.ContextVar("cnncorerecorded", default=None)


@contextlib.contextmanager
def recording() -> Iterator[list[Call]]:
    """The op calls made inside the block, in order."""
    calls: list[Call] = []
    token = recorded.set(calls)
    try:
        yield calls
    finally:
        recorded.reset(token)
