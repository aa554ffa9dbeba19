"""linear, softmax, softmax_cross_entropy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .windows import Arrays, zeros


def linear_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    x, w, b = arrays
    y = zeros(x.shape[0], w.shape[0])
    for n, o in np.ndindex(*y.shape):
        y[n, o] = 0.0 if b is None else float(b[o])
        for f in range(x.shape[1]):
            y[n, o] += float(x[n, f]) * float(w[o, f])
    return (y,)


def linear_backward(arrays: Arrays, attrs: dict[str, Any], dy: Any) -> Arrays:
    x, w, b = arrays
    dx, dw, db = zeros(*x.shape), zeros(*w.shape), zeros(w.shape[0])
    for n, o in np.ndindex(*dy.shape):
        db[o] += float(dy[n, o])
        for f in range(x.shape[1]):
            dx[n, f] += float(dy[n, o]) * float(w[o, f])
            dw[o, f] += float(dy[n, o]) * float(x[n, f])
    return dx, dw, None if b is None else db


def softmax_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    (x,) = arrays
    y, axis = zeros(*x.shape), attrs.get("axis", 1)
    for at in np.ndindex(*x.shape):
        # 1 / sum of exp(x_j - x_i): another form than the definition's, and as stable where no exp overflows.
        y[at] = 1 / sum(math.exp(float(x[other]) - float(x[at])) for other in along(x.shape, at, axis))
    return (y,)


def along(shape: tuple[int, ...], at: tuple[int, ...], axis: int) -> list[tuple[int, ...]]:
    """The indices that differ from `at` along an axis alone, in order."""
    axis = axis if axis >= 0 else axis + len(shape)
    return [(*at[:axis], j, *at[axis + 1 :]) for j in range(shape[axis])]


def softmax_backward(arrays: Arrays, attrs: dict[str, Any], dy: Any) -> Arrays:
    (y,) = softmax_forward(arrays, attrs)
    dx = zeros(*y.shape)
    for at in np.ndindex(*y.shape):
        for other in along(y.shape, at, attrs.get("axis", 1)):
            # the Jacobian: dy_j / dx_i = y_j ([i = j] - y_i)
            dx[at] += float(dy[other]) * y[other] * ((at == other) - y[at])
    return (dx,)


def softmax_cross_entropy_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    logits, labels = arrays
    (y,) = softmax_forward((logits,), {})
    loss = 0.0
    for n in range(len(labels)):
        loss -= math.log(y[n, labels[n]])
    return (np.array(loss / len(labels) if attrs.get("reduction", "mean") == "mean" else loss),)


def softmax_cross_entropy_backward(arrays: Arrays, attrs: dict[str, Any], dy: Any) -> Arrays:
    logits, labels = arrays
    (y,) = softmax_forward((logits,), {})
    count = len(labels) if attrs.get("reduction", "mean") == "mean" else 1
    for n, k in np.ndindex(*y.shape):
        y[n, k] = float(dy) * (y[n, k] - (k == labels[n])) / count
    return y, None
