"""The points of the cost curves: what changes while the rest stays as in BASE."""

from __future__ import annotations

from typing import Any

import numpy as np

import cnncore as cc
from cnncore.bench.problems import Problem

BASE = {"batch": 4, "channels": 64, "image": 32}
AXES = {
    "batch": (1, 4, 16, 64, 256),
    "channels": (3, 16, 64, 128, 256, 512),
    "image": (8, 16, 32, 56, 112, 224),
}
MAPS = 64  # of convolution's results
THREADS = (1, 2)
OPS: dict[str, dict[str, Any]] = {
    "conv": {"padding": 1, "stride": 1, "groups": 1},
    "max_pool": {"kernel": 3, "stride": 2},
}


def points() -> list[dict[str, int]]:
    """Every point once; BASE lies on all axes."""
    found: list[dict[str, int]] = []
    for axis, values in AXES.items():
        found += [point for value in values if (point := {**BASE, axis: value}) not in found]
    return found


def problem_at(op: str, point: dict[str, int]) -> Problem:
    """3x3 windows on (batch, channels, image, image): a padded convolution to MAPS maps, or max pooling."""
    n, c, s = point["batch"], point["channels"], point["image"]
    shapes: list[tuple[int, ...]] = [(n, c, s, s)]
    shapes += [(MAPS, c, 3, 3), (MAPS,)] if op == "conv" else []

    def make(rng: np.random.Generator) -> Any:
        return tuple(rng.standard_normal(shape, np.float32) for shape in shapes)

    return Problem(cc.ops.registry[op], f"{n}x{c}x{s}x{s}", make, OPS[op])
