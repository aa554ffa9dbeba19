"""Layers made of layers: one after the other, and side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .. import ops
from ..errors import CnncoreError
from .base import Layer
from .contexts import Chain, Context, Join
from .fields import Declared
from .fuse import Part, fused


class Sequential(Layer):
    """Layers one after the other, named 0, 1, ... An empty one is the identity. `net[i]` is layer i."""

    def __init__(self, *layers: Layer) -> None:
        self.layers = _layers("Sequential", layers)

    def apply(self, x: Any) -> tuple[Any, Context]:
        contexts = []
        for name, layer, apply in fused(self.parts()):
            try:
                x, context = apply(x)
            except CnncoreError as error:
                error.add_note(f"in layer {name}, {layer!r}")
                raise
            contexts.append(context)
        return x, Chain(*contexts)

    def parts(self, prefix: str = "") -> Iterator[Part]:
        """All layers in their order, those of a Sequential in their midst one by one."""
        for i, layer in enumerate(self.layers):
            if isinstance(layer, Sequential) and type(layer).apply is Sequential.apply:
                yield from layer.parts(f"{prefix}{i}.")
            else:
                yield Part(f"{prefix}{i}", layer, layer.apply)

    def children(self) -> dict[str, Layer]:
        return {str(i): layer for i, layer in enumerate(self.layers)}

    def __getitem__(self, i: int) -> Layer:
        return self.layers[i]

    def __len__(self) -> int:
        return len(self.layers)


JOINS = {"concat": ops.concat, "add": ops.add}


def joined(
    results: list[tuple[Any, Context]], join: Callable[..., Any], merge: Callable[..., Any] = ops.add
) -> tuple[Any, Context]:
    """y and the context of parallel paths, given each path's own, with their outputs joined by an op."""
    y, call = join(*(y for y, _ in results))
    return y, Join((context for _, context in results), call, merge)


class Branches(Declared):
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
        return joined([path.apply(x) for path in self.paths], JOINS[self.join])

    def children(self) -> dict[str, Layer]:
        return {str(i): path for i, path in enumerate(self.paths)}


def _layers(who: str, layers: tuple[Any, ...]) -> tuple[Layer, ...]:
    for i, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            raise CnncoreError(f"{who}: argument {i} must be a layer, got {layer!r}")
    return layers
