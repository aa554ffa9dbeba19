"""Layers made of layers: one after the other, and side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import ops
from ..errors import CnncoreError
from ..ops.op import Context as OpCall
from .base import Context, Layer
from .fuse import Step, fused


@dataclass(repr=False)
class Parts:
    """The contexts of the layers inside another."""

    parts: tuple[Context, ...] | None  # None: used up

    def __repr__(self) -> str:
        held = "used up" if self.parts is None else f"{len(self.parts)} parts"
        return f"{type(self).__name__}({held})"

    @property
    def learns(self) -> bool:
        return any(part.learns for part in self.parts or ())

    def take(self, last: bool) -> list[Context]:
        """The parts, for one backward; for the `last` one nothing else holds them then."""
        if self.parts is None:
            raise CnncoreError("backward: this context is used up: backward(last=True) was called on it before")
        parts = list(self.parts)
        if last:
            self.parts = None
        return parts


class SequentialContext(Parts):
    """The contexts of layers run one after the other."""

    def backward(self, dy: Any = None, dx: bool = True, spare: bool = False, last: bool = False) -> Any:
        parts = self.take(last)
        # Without dx there is nothing to do in front of the first layer that learns, and that one needs no dx either.
        first = 0 if dx else next((i for i, part in enumerate(parts) if part.learns), len(parts))
        while len(parts) > first:
            part, above = parts.pop(), dy  # lets the part and the gradient go that stood here before
            dy = part.backward(dy, dx=dx or len(parts) > first, spare=spare, last=last)
            # From here on dy is ours, unless it is the caller's still, seen through views.
            spare = spare or (isinstance(dy, np.ndarray) and not np.may_share_memory(above, dy))
        return dy if dx else None


class Sequential(Layer):
    """Layers one after the other, named 0, 1, ... An empty one is the identity. `net[i]` is layer i."""

    def __init__(self, *layers: Layer) -> None:
        self.layers = _layers("Sequential", layers)

    def apply(self, x: Any) -> tuple[Any, Context]:
        parts = []
        for name, layer, apply in fused(self.steps()):
            try:
                x, context = apply(x)
            except CnncoreError as error:
                error.add_note(f"in layer {name}, {layer!r}")
                raise
            parts.append(context)
        return x, SequentialContext(tuple(parts))

    def steps(self, prefix: str = "") -> Iterator[Step]:
        """All layers in their order, those of a Sequential in their midst one by one."""
        for i, layer in enumerate(self.layers):
            if isinstance(layer, Sequential) and type(layer).apply is Sequential.apply:
                yield from layer.steps(f"{prefix}{i}.")
            else:
                yield Step(f"{prefix}{i}", layer, layer.apply)

    def children(self) -> dict[str, Layer]:
        return {str(i): layer for i, layer in enumerate(self.layers)}

    def __getitem__(self, i: int) -> Layer:
        return self.layers[i]

    def __len__(self) -> int:
        return len(self.layers)


@dataclass(repr=False)
class BranchesContext(Parts):
    """The contexts of parallel paths, and of the op that joined them."""

    join: OpCall

    def backward(self, dy: Any = None, dx: bool = True, spare: bool = False, last: bool = False) -> Any:
        paths = self.take(last)
        needs = [name for name, path in zip(self.join.names, paths, strict=True) if dx or path.learns]
        gradients = zip(paths, self.join.backward(dy, needs), strict=True)
        to_x = [path.backward(g, dx=dx, spare=True, last=last) for path, g in gradients if g is not None]
        return ops.add(*to_x)[0] if dx else None


JOINS = {"concat": ops.concat, "add": ops.add}


class Branches(Layer):
    """Parallel paths from one x, joined by "concat" (along the channels) or "add"; named 0, 1, ...

    An empty `Sequential()` is a path that hands x on: `Branches(body, Sequential(), join="add")` is a residual block.
    """

    def __init__(self, *paths: Layer, join: str = "concat") -> None:
        if join not in JOINS:
            raise CnncoreError(f"Branches: join must be one of {', '.join(JOINS)}; got {join!r}")
        if not paths:
            raise CnncoreError("Branches: needs at least one path")
        self.paths = _layers("Branches", paths)
        self.join = join

    def apply(self, x: Any) -> tuple[Any, Context]:
        results = [path.apply(x) for path in self.paths]
        y, call = JOINS[self.join](*(y for y, _ in results))
        return y, BranchesContext(tuple(context for _, context in results), call)

    def children(self) -> dict[str, Layer]:
        return {str(i): path for i, path in enumerate(self.paths)}

    def describe(self) -> str:
        return f"join={self.join!r}"


def _layers(who: str, layers: tuple[Any, ...]) -> tuple[Layer, ...]:
    for i, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            raise CnncoreError(f"{who}: argument {i} must be a layer, got {layer!r}")
    return layers
