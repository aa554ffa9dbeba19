"""lrn across maps and within a map."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from .pointwise import each
from .windows import Arrays, zeros


def lrn_windows(x: Any, attrs: dict[str, Any]) -> Iterator[tuple[tuple[int, ...], list[tuple[int, ...]], int]]:
    """(index, indices of its neighbours and itself, elements of a whole window) of every element."""
    kernel = attrs.get("kernel")
    spatial = (kernel,) * (x.ndim - 2) if isinstance(kernel, int) else kernel or (1,) * (x.ndim - 2)
    sizes = (1, attrs.get("size", 5 if kernel is None else 1), *spatial)
    for i in np.ndindex(*x.shape):
        reached = [
            [j for j in range(n) if math.floor((s - 1) / 2) >= at - j and j - at <= math.ceil((s - 1) / 2)]
            for at, s, n in zip(i, sizes, x.shape, strict=True)
        ]
        yield i, list(product(*reached)), math.prod(sizes)


def lrn_divisors(x: Any, attrs: dict[str, Any]) -> tuple[np.ndarray, float]:
    """d of every element, and the alpha in use."""
    d, alpha = zeros(*x.shape), 0.0
    for i, places, whole in lrn_windows(x, attrs):
        alpha = attrs.get("alpha", 1e-4) / (whole if attrs.get("alpha_over_size", False) else 1)
        d[i] = attrs.get("k", 2.0) + alpha * sum(float(x[j]) ** 2 for j in places)
    return d, alpha


def lrn_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    d, _ = lrn_divisors(arrays[0], attrs)
    return (each(lambda x, d: x * d ** -attrs.get("beta", 0.75), arrays[0], d),)


def lrn_backward(arrays: Arrays, attrs: dict[str, Any], dy: Any) -> Arrays:
    (x,), beta = arrays, attrs.get("beta", 0.75)
    d, alpha = lrn_divisors(x, attrs)
    dx = zeros(*x.shape)
    for i, places, _ in lrn_windows(x, attrs):
        dx[i] += float(dy[i]) * d[i] ** -beta
        for j in places:  # dy_i/dx_j through the divisor of i
            dx[j] -= float(dy[i]) * float(x[i]) * beta * d[i] ** (-beta - 1) * 2 * alpha * float(x[j])
    return (dx,)


lrn_within_forward, lrn_within_backward = lrn_forward, lrn_backward  # which windows they sum, attrs say
