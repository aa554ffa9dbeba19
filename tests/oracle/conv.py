"""Convolution."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from .windows import REAL, Arrays, axes, outputs, taps, zeros


def conv_terms(x: Any, w: Any, attrs: dict[str, Any]) -> Iterator[tuple[tuple[int, ...], ...]]:
    """The index triples (y, x, w) of every product that convolution sums."""
    geometry = axes(x.shape[2:], w.shape[2:], attrs, 1)
    groups = attrs.get("groups", 1)
    per_group, maps = x.shape[1] // groups, w.shape[0] // groups
    for o in outputs(geometry):
        for tap, at, kind in taps(geometry, o):
            if kind != REAL:
                continue
            for n, k, c in product(range(x.shape[0]), range(w.shape[0]), range(per_group)):
                yield (n, k, *o), (n, k // maps * per_group + c, *at), (k, c, *tap)


def conv_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    x, w, b = arrays
    geometry = axes(x.shape[2:], w.shape[2:], attrs, 1)
    y = zeros(x.shape[0], w.shape[0], *(a.out for a in geometry))
    for i in np.ndindex(*y.shape):
        y[i] = 0.0 if b is None else float(b[i[1]])
    for iy, ix, iw in conv_terms(x, w, attrs):
        y[iy] += float(x[ix]) * float(w[iw])
    return (y,)


def conv_relu_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    (y,) = conv_forward(arrays, attrs)
    for i in np.ndindex(*y.shape):
        y[i] = y[i] if y[i] > 0 else 0.0
    return (y,)


def conv_relu_backward(arrays: Arrays, attrs: dict[str, Any], dy: Any) -> Arrays:
    (y,) = conv_forward(arrays, attrs)
    passed = zeros(*dy.shape)
    for i in np.ndindex(*dy.shape):
        passed[i] = dy[i] if y[i] > 0 else 0.0
    return conv_backward(arrays, attrs, passed)


def conv_backward(arrays: Arrays, attrs: dict[str, Any], dy: Any) -> Arrays:
    x, w, b = arrays
    dx, dw, db = zeros(*x.shape), zeros(*w.shape), zeros(w.shape[0])
    for iy, ix, iw in conv_terms(x, w, attrs):
        dx[ix] += float(dy[iy]) * float(w[iw])
        dw[iw] += float(dy[iy]) * float(x[ix])
    for i in np.ndindex(*dy.shape):
        db[i[1]] += float(dy[i])
    return dx, dw, None if b is None else db
