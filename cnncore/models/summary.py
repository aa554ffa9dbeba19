"""What a network is made of, one line per layer, and the memory that it needs, both from passes of zeros through it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backends import select
from ..backends.device import device_of
from ..backends.memory import POOL
from ..layers import Branches, Layer, Sequential
from ..layers.base import Drawing
from ..loader import channels_last
from ..ops.op import run
from ..ops.recording import Call, recording
from ..ops.records import registry
from ..tables import html_table
from ..train import evaluating

COLUMNS = ("layer", "output", "parameters", "FLOPs", "activation bytes")


@dataclass(frozen=True)
class Row:
    """One layer: its output's shape, its own parameters, FLOPs of a forward, and bytes of all results it computes."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    flops: int
    bytes: int


@dataclass(frozen=True)
class Memory:
    """Bytes that the C kernels' arrays take, as the pool they come from counts them, beyond x, the parameters and the
    optimiser's state. Arrays of less than 4 KiB are not counted.

    kept: what a forward in training mode leaves for its backward, y included.
    training: the most in use at once in a training step as the Trainer takes it, forward and backward: with the
        gradients, the parameters' too, and the kernels' workspaces.
    inference: the most in use at once in a forward in evaluation mode.
    """

    kept: int
    training: int
    inference: int

    def __str__(self) -> str:
        return (
            f"memory in bytes: {self.kept:,} kept for backward, at most {self.training:,} in a training step, "
            f"{self.inference:,} in inference"
        )


@dataclass(frozen=True, repr=False)
class Summary:
    """The rows of all layers, from the first to the last, their totals, and the memory of the whole network (None where
    other kernels than C's compute)."""

    rows: tuple[Row, ...]
    parameters: int
    memory: Memory | None

    @property
    def flops(self) -> int:
        return sum(row.flops for row in self.rows)

    @property
    def bytes(self) -> int:
        return sum(row.bytes for row in self.rows)

    def _cells(self) -> list[tuple[str, ...]]:
        cells: list[tuple[str, ...]] = []
        for r in self.rows:
            shape = "x".join(map(str, r.shape))
            cells.append((r.name, shape, *(f"{value:,}" for value in (r.parameters, r.flops, r.bytes))))
        return [*cells, ("total", "", *(f"{value:,}" for value in (self.parameters, self.flops, self.bytes)))]

    def __str__(self) -> str:
        cells = [COLUMNS, *self._cells()]
        widths = [max(len(row[i]) for row in cells) for i in range(len(COLUMNS))]
        pad = (str.ljust, str.ljust, str.rjust, str.rjust, str.rjust)
        lines = ["  ".join(p(c, w) for p, c, w in zip(pad, row, widths, strict=True)).rstrip() for row in cells]
        lines.insert(1, "-" * max(map(len, lines)))
        return "\n".join([*lines, *([str(self.memory)] if self.memory else [])])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(COLUMNS, self._cells(), left=2) + (f"<p>{self.memory}</p>" if self.memory else "")


def summary(net: Layer, shape: Sequence[int]) -> Summary:
    """Layer, output shape, parameters, FLOPs of a forward and bytes of activations of a network, and what `Memory` says
    of it: printed, or left as the last line of a notebook's cell, a table.

    shape: of x, with the batch: (1, 1, 28, 28). One multiply-add is two FLOPs. The network runs on zeros of its own
    dtype: forward layer by layer in evaluation mode, then a training step and a forward as a whole, which leave
    gradients, random keys and modes as they were. What other threads compute meanwhile is counted as well. A parameter
    that two layers share counts for the first, and once in the total.
    """
    rows: list[Row] = []
    counted: set[int] = set()
    values = [p.value for p in net.parameters().values()]
    dtype = values[0].dtype if values else np.float32
    with evaluating(net), _restored(net):
        _walk(net, "", np.zeros(shape, dtype), rows, counted)
        memory = _memory(net, channels_last(np.zeros(shape, dtype)))
    return Summary(tuple(rows), sum(math.prod(v.shape) for v in values), memory)


def _memory(net: Layer, x: np.ndarray) -> Memory | None:
    if select.engine(registry["relu"], None, (x,)).name != "c":
        return None
    net.zero_grad()
    before = POOL.watch()
    y, context = net.train().apply(x)
    kept = POOL.used - before
    where = device_of(y)
    dy = where.empty(y.shape, y.dtype, where.channels_last(y))
    where.write(dy, np.zeros((), y.dtype))
    context.backward(dy, dx=False, last=True)
    training = POOL.mark - before
    del y, context, dy
    net.zero_grad()
    before = POOL.watch()
    net.eval().apply(x)
    return Memory(kept, training, POOL.mark - before)


@contextlib.contextmanager
def _restored(net: Layer) -> Iterator[None]:
    """Gradients and random keys are afterwards what they were."""
    parameters = [(p, p.grad) for p in net.parameters().values()]
    keys = [(layer, layer.key) for _, layer in net.walk() if isinstance(layer, Drawing)]
    try:
        yield
    finally:
        for parameter, gradient in parameters:
            parameter.grad = gradient
        for drawing, key in keys:
            drawing.key = key


def _walk(layer: Layer, name: str, x: Any, rows: list[Row], counted: set[int]) -> Any:
    """Run a layer on x, and add its rows; containers add those of what is inside them."""
    if isinstance(layer, Sequential):
        for key, child in layer.children().items():
            x = _walk(child, f"{name}.{key}" if name else key, x, rows, counted)
        return x
    if isinstance(layer, Branches):
        ends = [
            _walk(path, f"{name}.{key}" if name else key, x, rows, counted) for key, path in layer.children().items()
        ]
        with recording() as calls:
            y, _ = run(registry[layer.join], tuple(ends), {})
        rows.append(_row(f"{name} {layer.join}".strip(), y, [], calls))
        return y
    with recording() as calls:
        y, _ = layer.apply(x)
    own = [p for p in layer.parameters().values() if id(p) not in counted]
    counted.update(map(id, own))
    rows.append(_row(f"{name} {type(layer).__name__}".strip(), y, own, calls))
    return y


def _row(name: str, y: Any, parameters: list[Any], calls: list[Call]) -> Row:
    count = sum(math.prod(p.value.shape) for p in parameters)
    return Row(name, tuple(y.shape), count, sum(c.flops for c in calls), sum(c.bytes for c in calls))
