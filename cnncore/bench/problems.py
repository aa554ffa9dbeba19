"""What is benchmarked: the convolution layers in layers/*.txt, and every other op at (64, 96, 32, 32)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FormatError
from ..ops.op import Op
from ..ops.records import registry
from ..ops.roles import Role
from ..ops.spec import Arrays

SHAPE = (64, 96, 32, 32)
COLUMNS = ["name", "N", "C", "K", "image", "kernel", "stride", "pad", "groups"]


@dataclass(frozen=True)
class Problem:
    """One call of one op: `make` draws its arrays, float32 and contiguous."""

    op: Op
    name: str
    make: Callable[[np.random.Generator], Arrays] = field(repr=False)
    attrs: dict[str, Any] = field(default_factory=dict)


def layers(path: Path) -> list[Problem]:
    """The convolution layers in a text file: one a line, in the order of COLUMNS; # begins a comment.

    Raises FormatError naming the file and the line.
    """
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != len(COLUMNS) or not all(w.isdecimal() for w in words[1:]):
            raise FormatError(f"{path}: line {number}: expected {' '.join(COLUMNS)}, got {line!r}")
        found.append(_layer(words[0], *map(int, words[1:])))
    return found


def _layer(name: str, n: int, c: int, k: int, image: int, kernel: int, stride: int, pad: int, groups: int) -> Problem:
    def make(rng: np.random.Generator) -> Arrays:
        shapes = (n, c, image, image), (k, c // groups, kernel, kernel), (k,)
        return tuple(_normal(rng, *shape) for shape in shapes)

    return Problem(registry["conv"], name, make, {"stride": stride, "padding": pad, "groups": groups})


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def _adam(rng: np.random.Generator) -> Arrays:
    value, grad, mean, square = (_normal(rng, *SHAPE) for _ in range(4))
    return value, grad, mean, square * square


# Ops whose arrays cannot all have SHAPE: what to draw, under a name.
SPECIAL: dict[str, tuple[str, Callable[[np.random.Generator], Arrays]]] = {
    "conv_relu": ("1x1", lambda r: (_normal(r, *SHAPE), _normal(r, SHAPE[1], SHAPE[1], 1, 1), _normal(r, SHAPE[1]))),
    "linear": ("lenet fc", lambda r: (_normal(r, 128, 3136), _normal(r, 512, 3136), _normal(r, 512))),
    "softmax_cross_entropy": ("4096 x 1000", lambda r: (_normal(r, 4096, 1000), r.integers(0, 1000, 4096))),
    "lp_unit": ("2 pieces", lambda r: (_normal(r, *SHAPE), _normal(r, SHAPE[1] // 2), _normal(r, SHAPE[1]))),
    "maxout": ("2 pieces", lambda r: (_normal(r, *SHAPE),)),
    "slice": ("96 of 96 maps", lambda r: (_normal(r, 64, 96, 32, 32),)),  # all, as the cost counts every input once
    "adam_step": ("6.3 M weights", _adam),
    "sgd_step": ("6.3 M weights", lambda r: tuple(_normal(r, *SHAPE) for _ in range(3))),
}
ATTRS: dict[str, dict[str, Any]] = {
    "lrn_within": {"kernel": 5},
    "slice": {"start": 0, "stop": 96},
    "sgd_step": {"lr": 0.01, "momentum": 0.9},
    "lp_unit": {"pieces": 2},
    "maxout": {"pieces": 2},
    "adam_step": {"lr": 0.001, "step": 10},
}


def problems_of(op: Op) -> list[Problem]:
    """The problems of one op. One that takes windows and nothing else gets 2x2/2 and 3x3/2, without an entry here."""
    if op.name == "conv":
        return [layer for path in sorted((Path(__file__).parent / "layers").glob("*.txt")) for layer in layers(path)]
    if op.name in SPECIAL:
        name, make = SPECIAL[op.name]
        return [Problem(op, name, make, ATTRS.get(op.name, {}))]

    def maps(rng: np.random.Generator) -> Arrays:
        return tuple(array for role in op.arrays.values() for array in _draw(role, rng))

    if "stride" in inspect.signature(op.rule).parameters:
        return [Problem(op, f"{k}x{k}/2", maps, {"kernel": k, "stride": 2}) for k in (2, 3)]
    return [Problem(op, "x".join(map(str, SHAPE)), maps, ATTRS.get(op.name, {}))]


def _draw(role: Role, rng: np.random.Generator) -> Arrays:
    if role.drawn:
        return ((0, 0),)  # a Philox key: drawing is part of the op's work
    return tuple(_normal(rng, *SHAPE) for _ in range(2 if role.many else 1))


def first_samples(problem: Problem, arrays: Arrays, count: int = 2) -> Arrays:
    """The same problem with the first `count` samples of the batch: what the slow definition can afford."""
    roles = problem.op.roles(arrays)
    return tuple(a[:count] if role.maps or role.dtype is not None else a for a, role in zip(arrays, roles, strict=True))
