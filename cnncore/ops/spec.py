"""What a rule says of a call, a drawn problem, and what a call costs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

MAX_AXES = 5  # (N, C, D, H, W)

Arrays = tuple[Any, ...]
Shape = tuple[int, ...]


@dataclass(slots=True)
class Spec:
    """What the rule of an op says of a call. It reads shapes, types and attributes, never what arrays hold.

    params: read by every backend; its names and types are the fields of the op's C parameter struct.
    results: name -> (shape, dtype) of what forward returns, outputs first, then extras that only backward reads.
        A dtype of None stands for the dtype of the float arguments.
    random: the shape of the uniforms `u`, for ops that draw.
    """

    params: SimpleNamespace
    results: dict[str, tuple[Shape, Any]]
    random: Shape | None = None

    def __repr__(self) -> str:
        results = zip(self.results, (shape for shape, _ in self.results.values()), strict=True)
        return (
            f"Spec({', '.join(vars(self.params))} -> {', '.join(f'{name} {shapes_text([s])}' for name, s in results)})"
        )


@dataclass(frozen=True)
class Case:
    """One drawn problem: arrays in float64, and attributes. Every kink of the op is farther than `gap` from it."""

    arrays: Arrays
    attrs: dict[str, Any]
    gap: float = math.inf

    def __repr__(self) -> str:
        return f"Case({shapes_text(map(shape_of, self.arrays))}, {self.attrs}, gap={self.gap:.3g})"


@dataclass(frozen=True)
class Cost:
    """FLOPs, and the least bytes that must move: every input read once and every result written once."""

    flops: int
    bytes: int


def shape_of(a: Any) -> Shape | None:
    return tuple(a.shape) if hasattr(a, "shape") else None


def shapes_text(shapes: Iterable[Shape | None], most: int = 6) -> str:
    """The shapes of a call's arrays, for reprs: as many as can be read at a glance."""
    told = ["none" if shape is None else "x".join(map(str, shape)) or "scalar" for shape in shapes]
    return ", ".join(told[:most]) + (f", ... ({len(told)} arrays)" if len(told) > most else "")


def flops_free(spec: Spec, arrays: Arrays) -> tuple[int, int]:
    """For ops whose time is memory traffic: one operation per output, and one per gradient."""
    count = math.prod(next(iter(spec.results.values()))[0])
    return count, count
