"""What a call costs as batch, channels or image grow (points.py), on one thread and on two."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from compare_ops import op_rows
from points import THREADS, problem_at
from turns import Row

from cnncore.backends import native


def point_rows(op: str, point: dict[str, int], seconds: float) -> Iterator[Row]:
    for threads in THREADS:
        with on_threads(threads):
            for row in op_rows("curves", problem_at(op, point), seconds, ("forward", "backward")):
                row.point = {**point, "threads": threads}
                yield row


@contextlib.contextmanager
def on_threads(threads: int) -> Iterator[None]:
    """Both sides compute on so many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with native.use_threads(threads):
            yield
    finally:
        torch.set_num_threads(before)
