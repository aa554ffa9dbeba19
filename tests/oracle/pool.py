"""Pooling, over windows; the forms over all of S are made of these in __init__.py."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from .windows import PAD, REAL, Arrays, axes, outputs, taps, zeros


def pool(x: Any, attrs: dict[str, Any]) -> Iterator[tuple[tuple[int, ...], list[tuple[int, ...]], int]]:
    """(output index, input indices of its real elements in row-major order, pads it holds) of every window."""
    geometry = axes(x.shape[2:], attrs["kernel"], attrs, attrs["kernel"])
    for o in outputs(geometry):
        found = list(taps(geometry, o))
        real = [at for _, at, kind in found if kind == REAL]
        pads = sum(kind == PAD for _, _, kind in found)
        for nc in product(range(x.shape[0]), range(x.shape[1])):
            yield (*nc, *o), [(*nc, *at) for at in real], pads


def pool_out(x: Any, attrs: dict[str, Any]) -> tuple[int, ...]:
    return (*x.shape[:2], *(a.out for a in axes(x.shape[2:], attrs["kernel"], attrs, attrs["kernel"])))


def first_max(x: Any, places: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The place of the first NaN, or else of the first of the largest."""
    best = places[0]
    for place in places[1:]:
        if math.isnan(x[best]):
            break
        if math.isnan(x[place]) or x[place] > x[best]:
            best = place
    return best


def max_pool_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    y = zeros(*pool_out(arrays[0], attrs))
    for o, places, _ in pool(arrays[0], attrs):
        y[o] = arrays[0][first_max(arrays[0], places)]
    return (y,)


def max_pool_backward(arrays: Arrays, attrs: dict[str, Any], dy: Any) -> Arrays:
    dx = zeros(*arrays[0].shape)
    for o, places, _ in pool(arrays[0], attrs):
        dx[first_max(arrays[0], places)] += float(dy[o])
    return (dx,)


def relu_max_pool_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    (y,) = max_pool_forward(arrays, attrs)
    return (np.where(y <= 0, 0.0, y),)


def relu_max_pool_backward(arrays: Arrays, attrs: dict[str, Any], dy: Any) -> Arrays:
    (y,) = max_pool_forward(arrays, attrs)
    return max_pool_backward(arrays, attrs, np.where(y <= 0, 0.0, dy))


def avg_pool_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    y = zeros(*pool_out(arrays[0], attrs))
    for o, places, pads in pool(arrays[0], attrs):
        total = 0.0
        for place in places:
            total += float(arrays[0][place])
        y[o] = total / (len(places) + (pads if attrs.get("count_include_pad", False) else 0))
    return (y,)


def avg_pool_backward(arrays: Arrays, attrs: dict[str, Any], dy: Any) -> Arrays:
    dx = zeros(*arrays[0].shape)
    for o, places, pads in pool(arrays[0], attrs):
        for place in places:
            dx[place] += float(dy[o]) / (len(places) + (pads if attrs.get("count_include_pad", False) else 0))
    return (dx,)


def lp_weights(x: Any, places: list[Any], attrs: dict[str, Any]) -> float:
    return 1 / len(places) if attrs.get("normalize", False) else 1.0


def lp_norm(x: Any, places: list[Any], attrs: dict[str, Any]) -> float:
    p, sizes = attrs.get("p", 2.0), [abs(float(x[place])) for place in places]
    top = next((s for s in sizes if math.isnan(s)), max(sizes))
    if p == math.inf or not 0 < top < math.inf:
        return top
    total = math.fsum((s / top) ** p for s in sizes)
    return float(top * (total * lp_weights(x, places, attrs)) ** (1 / p))


def lp_pool_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    y = zeros(*pool_out(arrays[0], attrs))
    for o, places, _ in pool(arrays[0], attrs):
        y[o] = lp_norm(arrays[0], places, attrs)
    return (y,)


def lp_pool_backward(arrays: Arrays, attrs: dict[str, Any], dy: Any) -> Arrays:
    (x,), p = arrays, attrs.get("p", 2.0)
    dx = zeros(*x.shape)
    for o, places, _ in pool(x, attrs):
        norm = lp_norm(x, places, attrs)
        for place in [first_max(np.abs(x), places)] if p == math.inf else places:
            size = abs(float(x[place]))
            slope = 1.0 if p == math.inf else (size / norm) ** (p - 1) * lp_weights(x, places, attrs) if norm else 0.0
            dx[place] += float(dy[o]) * math.copysign(slope if size else 0.0, float(x[place]))
    return (dx,)


def gaussian_windows(x: Any, attrs: dict[str, Any]) -> Iterator[tuple[Any, list[Any], list[float]]]:
    """(output index, places of its real elements, their weights) of every window."""
    geometry, sigma = axes(x.shape[2:], attrs["kernel"], attrs, attrs["kernel"]), attrs.get("sigma", 1.0)
    for o in outputs(geometry):
        real = [(tap, at) for tap, at, kind in taps(geometry, o) if kind == REAL]
        far = [sum((t - (a.k - 1) / 2) ** 2 for t, a in zip(tap, geometry, strict=True)) for tap, _ in real]
        weights = [math.exp(-(f - min(far)) / (2 * sigma**2)) for f in far]
        for nc in product(range(x.shape[0]), range(x.shape[1])):
            yield (*nc, *o), [(*nc, *at) for _, at in real], [w / math.fsum(weights) for w in weights]


def gaussian_norm(x: Any, places: list[Any], weights: list[float], p: float) -> float:
    sizes = [abs(float(x[place])) for place in places]
    top = next((s for s in sizes if math.isnan(s)), max(sizes))
    if not 0 < top < math.inf:
        return top
    return float(top * math.fsum(w * (s / top) ** p for s, w in zip(sizes, weights, strict=True)) ** (1 / p))


def gaussian_lp_pool_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    y = zeros(*pool_out(arrays[0], attrs))
    for o, places, weights in gaussian_windows(arrays[0], attrs):
        y[o] = gaussian_norm(arrays[0], places, weights, attrs.get("p", 2.0))
    return (y,)


def gaussian_lp_pool_backward(arrays: Arrays, attrs: dict[str, Any], dy: Any) -> Arrays:
    (x,), p = arrays, attrs.get("p", 2.0)
    dx = zeros(*x.shape)
    for o, places, weights in gaussian_windows(x, attrs):
        norm = gaussian_norm(x, places, weights, p)
        for place, weight in zip(places, weights, strict=True):
            if x[place] != 0 and norm:
                slope = weight * (abs(float(x[place])) / norm) ** (p - 1)
                dx[place] += float(dy[o]) * math.copysign(slope, float(x[place]))
    return (dx,)


def drawn(x: Any, places: list[Any], u: float, power: float) -> Any:
    """The place that u draws; the first NaN or infinity where there is one; None where nothing is positive."""
    top = first_max(x, places)
    if not 0 < x[top] < math.inf:
        return None if x[top] <= 0 else top
    weights = [max(float(x[place]), 0.0) / float(x[top]) for place in places]
    weights = [w if power == 1 else w * w if power == 2 else w**power for w in weights]
    total = 0.0
    for weight in weights:  # not sum(), which compensates from Python 3.12 on
        total += weight
    running, last = 0.0, None
    for place, weight in zip(places, weights, strict=True):
        running, last = running + weight, place if weight > 0 else last
        if running > u * total:
            break
    return last


def stochastic_pool_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    x, u = arrays
    y = zeros(*pool_out(x, attrs))
    for o, places, _ in pool(x, attrs):
        place = drawn(x, places, float(u[o]), attrs.get("power", 1.0))
        y[o] = 0.0 if place is None else x[place]
    return (y,)


def stochastic_pool_backward(arrays: Arrays, attrs: dict[str, Any], dy: Any) -> Arrays:
    x, u = arrays
    dx = zeros(*x.shape)
    for o, places, _ in pool(x, attrs):
        place = drawn(x, places, float(u[o]), attrs.get("power", 1.0))
        if place is not None:
            dx[place] += float(dy[o])
    return dx, None


def positives(x: Any, places: list[Any]) -> tuple[float, list[float]]:
    """The largest of max(x, 0) (NaN where there is one), and all of them divided by it where that can be done."""
    sizes = [0.0 if float(x[place]) <= 0 else float(x[place]) for place in places]
    top = next((s for s in sizes if math.isnan(s)), max(sizes))
    return top, [s / top for s in sizes] if 0 < top < math.inf else []


def expectation_pool_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    y, power = zeros(*pool_out(arrays[0], attrs)), attrs.get("power", 1.0)
    for o, places, _ in pool(arrays[0], attrs):
        top, sizes = positives(arrays[0], places)
        y[o] = top * math.fsum(s ** (power + 1) for s in sizes) / math.fsum(s**power for s in sizes) if sizes else top
    return (y,)


def expectation_pool_backward(arrays: Arrays, attrs: dict[str, Any], dy: Any) -> Arrays:
    (x,), power = arrays, attrs.get("power", 1.0)
    dx = zeros(*x.shape)
    for o, places, _ in pool(x, attrs):
        _, sizes = positives(x, places)
        for place, s in zip(places, sizes, strict=False):
            if s > 0:
                total = math.fsum(t**power for t in sizes)
                mean = math.fsum(t ** (power + 1) for t in sizes) / total
                dx[place] += float(dy[o]) * ((power + 1) * s**power - power * s ** (power - 1) * mean) / total
    return (dx,)


def entropy_pool_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    y = zeros(*pool_out(arrays[0], attrs))
    for o, places, _ in pool(arrays[0], attrs):
        top, sizes = positives(arrays[0], places)
        y[o] = top * len(sizes) / math.fsum(sizes) if sizes else top
    return (y,)


def entropy_pool_backward(arrays: Arrays, attrs: dict[str, Any], dy: Any) -> Arrays:
    (x,) = arrays
    dx = zeros(*x.shape)
    for o, places, _ in pool(x, attrs):
        _, sizes = positives(x, places)
        if sizes:
            q = len(sizes) / math.fsum(sizes)
            dx[first_max(x, places)] += float(dy[o]) * 2 * q
            for place in places:
                dx[place] -= float(dy[o]) * q * q / len(sizes) if x[place] > 0 else 0.0
    return (dx,)
