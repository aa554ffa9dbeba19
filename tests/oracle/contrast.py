"""subtractive_norm and divisive_norm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from .pointwise import each
from .windows import Arrays, zeros


def contrast_weights(x: Any, attrs: dict[str, Any]) -> Iterator[tuple[tuple[int, ...], dict[tuple[int, ...], float]]]:
    """(position, weight of every real position of its window) of every position."""
    rank, kernel = x.ndim - 2, attrs.get("kernel", 9)
    sizes = (kernel,) * rank if isinstance(kernel, int) else kernel
    for s in np.ndindex(*x.shape[2:]):
        found = {}
        for t in np.ndindex(*x.shape[2:]):
            shift = [b - a for a, b in zip(s, t, strict=True)]
            if all(-math.floor((k - 1) / 2) <= d <= math.ceil((k - 1) / 2) for d, k in zip(shift, sizes, strict=True)):
                scaled = (d / (k / 4 if attrs.get("sigma") is None else attrs["sigma"])
                          for d, k in zip(shift, sizes, strict=True))  # fmt: skip
                found[t] = math.exp(-sum(d * d for d in scaled) / 2)
        total = sum(found.values())
        yield s, {t: g / total for t, g in found.items()}


def subtractive_norm_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    (x,) = arrays
    y = each(lambda v: v, x)
    for s, weights in contrast_weights(x, attrs):
        for n, c, j in product(range(x.shape[0]), range(x.shape[1]), range(x.shape[1])):
            for t, w in weights.items():
                y[(n, c, *s)] -= w * float(x[(n, j, *t)]) / x.shape[1]
    return (y,)


def subtractive_norm_backward(arrays: Arrays, attrs: dict[str, Any], dy: Any) -> Arrays:
    dx = each(lambda g: g, dy)
    for s, weights in contrast_weights(dy, attrs):
        for n, c, j in product(range(dy.shape[0]), range(dy.shape[1]), range(dy.shape[1])):
            for t, w in weights.items():
                dx[(n, j, *t)] -= w * float(dy[(n, c, *s)]) / dy.shape[1]
    return (dx,)


def deviations(x: Any, attrs: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """r (N, *S), and its mean over each image."""
    r, count = zeros(x.shape[0], *x.shape[2:]), math.prod(x.shape[2:])
    for s, weights in contrast_weights(x, attrs):
        for n in range(x.shape[0]):
            terms = [w * float(x[(n, c, *t)]) ** 2 for t, w in weights.items() for c in range(x.shape[1])]
            r[(n, *s)] = math.sqrt(sum(terms) / x.shape[1])
    means = zeros(x.shape[0])
    for n, *s in np.ndindex(*r.shape):
        means[n] += r[(n, *s)] / count
    return r, means


def divisive_norm_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    (x,) = arrays
    r, means = deviations(x, attrs)
    y = zeros(*x.shape)
    for n, c, *s in np.ndindex(*x.shape):
        y[(n, c, *s)] = float(x[(n, c, *s)]) / max(r[(n, *s)], means[n], attrs.get("floor", 1e-4))
    return (y,)


def divisive_norm_backward(arrays: Arrays, attrs: dict[str, Any], dy: Any) -> Arrays:
    """Through every path on its own: the numerator, and each r that a divisor is made of."""
    (x,), floor, count = arrays, attrs.get("floor", 1e-4), math.prod(arrays[0].shape[2:])
    r, means = deviations(x, attrs)
    dx, to_r = zeros(*x.shape), zeros(*r.shape)
    for n, c, *s in np.ndindex(*x.shape):
        i, p = (n, c, *s), (n, *s)
        d = max(r[p], means[n], floor)
        dx[i] += float(dy[i]) / d
        slope = -float(dy[i]) * float(x[i]) / d**2
        if d == r[p]:
            to_r[p] += slope
        elif d == means[n]:
            for t in np.ndindex(*r.shape[1:]):
                to_r[(n, *t)] += slope / count
    for s, weights in contrast_weights(x, attrs):
        for n, c in product(range(x.shape[0]), range(x.shape[1])):
            for t, w in weights.items():
                if r[(n, *s)]:
                    dx[(n, c, *t)] += to_r[(n, *s)] * w * float(x[(n, c, *t)]) / (x.shape[1] * r[(n, *s)])
    return (dx,)
