"""Activations, dropout, add, concat, slice."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .windows import Arrays, zeros


def each(function: Callable[..., float], *arrays: Any) -> np.ndarray:
    y = zeros(*arrays[0].shape)
    for i in np.ndindex(*y.shape):
        y[i] = function(*(float(a[i]) for a in arrays))
    return y


def relu_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    return (each(lambda x: 0.0 if x < 0 else x, arrays[0]),)


def relu_backward(arrays: Arrays, attrs: dict[str, Any], dy: Any) -> Arrays:
    return (each(lambda x, g: 0.0 if x <= 0 else g, arrays[0], dy),)


def sigmoid_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    def one(x: float) -> float:  # another form than the definition's on either side
        return 0.5 + 0.5 * math.tanh(x / 2) if x > -1 else math.exp(x - math.log1p(math.exp(x)))

    return (each(one, arrays[0]),)


def sigmoid_backward(arrays: Arrays, attrs: dict[str, Any], dy: Any) -> Arrays:
    return (each(lambda x, g: g / (2 + math.exp(x) + math.exp(-x)), arrays[0], dy),)


def tanh_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    return (each(lambda x: math.expm1(2 * x) / (math.expm1(2 * x) + 2), arrays[0]),)


def tanh_backward(arrays: Arrays, attrs: dict[str, Any], dy: Any) -> Arrays:
    return (each(lambda x, g: g / math.cosh(x) ** 2, arrays[0], dy),)


def dropout_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    x, u = arrays
    p = float(x.dtype.type(attrs.get("p", 0.5)))  # compared in x's dtype
    y = zeros(*x.shape)
    for i in np.ndindex(*x.shape):
        drawn = u[(*i[:2], *(0 for _ in i[2:]))] if attrs.get("per") == "map" else u[i]
        y[i] = float(x[i]) / (1 - attrs.get("p", 0.5)) if drawn >= p else 0.0
    return (y,)


def dropout_backward(arrays: Arrays, attrs: dict[str, Any], dy: Any) -> Arrays:
    return dropout_forward((dy, arrays[1]), attrs)[0], None


def add_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    return (each(lambda *xs: sum(xs), *arrays),)


def add_backward(arrays: Arrays, attrs: dict[str, Any], dy: Any) -> Arrays:
    return tuple(each(lambda g: g, dy) for _ in arrays)


def concat_places(arrays: Arrays, attrs: dict[str, Any]) -> Iterator[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """(which array, index in it, index in the result)."""
    axis = attrs.get("axis", 1)
    axis += len(arrays[0].shape) if axis < 0 else 0
    before = 0
    for which, a in enumerate(arrays):
        for i in np.ndindex(*a.shape):
            yield which, i, (*i[:axis], i[axis] + before, *i[axis + 1 :])
        before += a.shape[axis]


def concat_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    shape = list(arrays[0].shape)
    shape[attrs.get("axis", 1)] = sum(a.shape[attrs.get("axis", 1)] for a in arrays)
    y = zeros(*shape)
    for which, i, o in concat_places(arrays, attrs):
        y[o] = arrays[which][i]
    return (y,)


def concat_backward(arrays: Arrays, attrs: dict[str, Any], dy: Any) -> Arrays:
    gradients = tuple(zeros(*a.shape) for a in arrays)
    for which, i, o in concat_places(arrays, attrs):
        gradients[which][i] = dy[o]
    return gradients


def slice_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    n, _, *rest = arrays[0].shape
    y = zeros(n, attrs["stop"] - attrs["start"], *rest)
    for sample, c, *at in np.ndindex(*y.shape):
        y[(sample, c, *at)] = arrays[0][(sample, attrs["start"] + c, *at)]
    return (y,)


def slice_backward(arrays: Arrays, attrs: dict[str, Any], dy: Any) -> Arrays:
    dx = zeros(*arrays[0].shape)
    for sample, c, *at in np.ndindex(*dx.shape):
        if attrs["start"] <= c < attrs["stop"]:
            dx[(sample, c, *at)] = dy[(sample, c - attrs["start"], *at)]
    return (dx,)
