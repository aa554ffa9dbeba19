"""maxout and lp_unit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

from .pool import first_max
from .windows import REAL, Arrays, axes, outputs, taps, zeros


def units(x: Any, attrs: dict[str, Any]) -> Iterator[tuple[tuple[int, ...], list[tuple[int, ...]]]]:
    """(output index, input indices of its real elements: position by position, at each the maps) of every unit."""
    pieces, kernel = attrs["pieces"], attrs.get("kernel", 1)
    geometry = axes(x.shape[2:], kernel, attrs, kernel)
    for o in outputs(geometry):
        real = [at for _, at, kind in taps(geometry, o) if kind == REAL]
        for n, k in product(range(x.shape[0]), range(x.shape[1] // pieces)):
            yield (n, k, *o), [(n, k * pieces + j, *at) for at in real for j in range(pieces)]


def units_out(x: Any, attrs: dict[str, Any]) -> tuple[int, ...]:
    kernel = attrs.get("kernel", 1)
    return (x.shape[0], x.shape[1] // attrs["pieces"], *(a.out for a in axes(x.shape[2:], kernel, attrs, kernel)))


def maxout_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    y = zeros(*units_out(arrays[0], attrs))
    for o, places in units(arrays[0], attrs):
        y[o] = arrays[0][first_max(arrays[0], places)]
    return (y,)


def maxout_backward(arrays: Arrays, attrs: dict[str, Any], dy: Any) -> Arrays:
    dx = zeros(*arrays[0].shape)
    for o, places in units(arrays[0], attrs):
        dx[first_max(arrays[0], places)] += float(dy[o])
    return (dx,)


def lp_unit_parts(arrays: Arrays, attrs: dict[str, Any]) -> Iterator[tuple[Any, list[Any], list[float], float, float]]:
    """(output index, places, z of each, p, y) of every unit."""
    x, rho, center = arrays
    for o, places in units(x, attrs):
        p = 1 + max(float(rho[o[1]]), 0.0) + math.log1p(math.exp(-abs(float(rho[o[1]]))))
        z = [float(x[i]) - (0.0 if center is None else float(center[i[1]])) for i in places]
        most = max(abs(v) for v in z)
        mean = sum((abs(v) / most) ** p for v in z) / len(z) if most else 0.0
        yield o, places, z, p, most * mean ** (1 / p)


def lp_unit_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    y = zeros(*units_out(arrays[0], attrs))
    for o, _, _, _, value in lp_unit_parts(arrays, attrs):
        y[o] = value
    return (y,)


def lp_unit_backward(arrays: Arrays, attrs: dict[str, Any], dy: Any) -> Arrays:
    x, rho, center = arrays
    dx, drho, dcenter = zeros(*x.shape), zeros(*rho.shape), zeros(x.shape[1])
    for o, places, z, p, y in lp_unit_parts(arrays, attrs):
        if y == 0:
            continue
        powers = [abs(v) ** p for v in z]
        logs = sum(a * math.log(abs(v)) for a, v in zip(powers, z, strict=True) if v) / sum(powers)
        to_p = y / p * (logs - math.log(sum(powers) / len(z)) / p)
        drho[o[1]] += float(dy[o]) * to_p / (1 + math.exp(-float(rho[o[1]])))
        for i, v in zip(places, z, strict=True):
            g = float(dy[o]) * math.copysign(abs(v) ** (p - 1), v) * y ** (1 - p) / len(z) if v else 0.0
            dx[i] += g
            dcenter[i[1]] -= g
    return dx, drho, None if center is None else dcenter
