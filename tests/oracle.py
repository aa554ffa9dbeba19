"""What every op computes, a second time: nested loops over single numbers, written from the formulas alone.

It shares no code with cnncore: no windows, no shapes, no NumPy arithmetic. Arrays are only read and written element by
element, all arithmetic is on Python floats (float64). Slow on purpose; problems must be small.

    ORACLE[name].forward(arrays, attrs)       -> the op's outputs
    ORACLE[name].backward(arrays, attrs, dy)  -> a gradient or None per array (None: the op has no gradient)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np

Arrays = tuple[Any, ...]
REAL, PAD, OVERHANG = "real", "pad", "overhang"


class Axis(NamedTuple):
    """One spatial axis of a window problem."""

    n: int
    k: int
    s: int
    b: int
    e: int
    d: int
    ceil_mode: bool

    @property
    def out(self) -> int:
        """How many windows there are, found by walking them."""
        extent, start, count = self.d * (self.k - 1) + 1, 0, 0
        while start + extent <= self.b + self.n + self.e:
            start, count = start + self.s, count + 1
        uncovered = start - self.s + extent < self.b + self.n + self.e
        if self.ceil_mode and uncovered and start < self.b + self.n:
            count += 1
        return count

    def place(self, window: int, tap: int) -> tuple[int, str]:
        """The input index that a tap of a window falls on, and what is there."""
        at = window * self.s + tap * self.d - self.b
        if 0 <= at < self.n:
            return at, REAL
        return at, PAD if -self.b <= at < self.n + self.e else OVERHANG


def axes(size: tuple[int, ...], kernel: Any, attrs: dict[str, Any], default_stride: Any) -> list[Axis]:
    def per_axis(value: Any) -> list[Any]:
        return [value] * len(size) if isinstance(value, int) else list(value)

    stride = attrs.get("stride")
    pads = [p if isinstance(p, tuple) else (p, p) for p in per_axis(attrs.get("padding", 0))]
    return [
        Axis(n, k, s, b, e, d, attrs.get("ceil_mode", False))
        for n, k, s, (b, e), d in zip(
            size,
            per_axis(kernel),
            per_axis(default_stride if stride is None else stride),
            pads,
            per_axis(attrs.get("dilation", 1)),
            strict=True,
        )
    ]


def outputs(geometry: list[Axis]) -> Iterator[tuple[int, ...]]:
    return product(*(range(a.out) for a in geometry))


def taps(geometry: list[Axis], window: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], str]]:
    """(tap, input index, REAL / PAD / OVERHANG) of one window, row-major."""
    for tap in product(*(range(a.k) for a in geometry)):
        found = [a.place(o, t) for a, o, t in zip(geometry, window, tap, strict=True)]
        kinds = [kind for _, kind in found]
        kind = OVERHANG if OVERHANG in kinds else PAD if PAD in kinds else REAL
        yield tap, tuple(at for at, _ in found), kind


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape)


# --- conv ---


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


def conv_backward(arrays: Arrays, attrs: dict[str, Any], dy: Any) -> Arrays:
    x, w, b = arrays
    dx, dw, db = zeros(*x.shape), zeros(*w.shape), zeros(w.shape[0])
    for iy, ix, iw in conv_terms(x, w, attrs):
        dx[ix] += float(dy[iy]) * float(w[iw])
        dw[iw] += float(dy[iy]) * float(x[ix])
    for i in np.ndindex(*dy.shape):
        db[i[1]] += float(dy[i])
    return dx, dw, None if b is None else db


# --- pooling ---


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


# --- units across maps ---


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


# --- dense ---


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
    y = zeros(*x.shape)
    for n, c, *s in np.ndindex(*x.shape):
        # 1 / sum of exp(x_j - x_i): another form than the definition's, and as stable where no exp overflows.
        y[(n, c, *s)] = 1 / sum(math.exp(float(x[(n, j, *s)]) - float(x[(n, c, *s)])) for j in range(x.shape[1]))
    return (y,)


def softmax_backward(arrays: Arrays, attrs: dict[str, Any], dy: Any) -> Arrays:
    (y,) = softmax_forward(arrays, attrs)
    dx = zeros(*y.shape)
    for n, i, *s in np.ndindex(*y.shape):
        for j in range(y.shape[1]):
            # the Jacobian: dy_j / dx_i = y_j ([i = j] - y_i)
            dx[(n, i, *s)] += float(dy[(n, j, *s)]) * y[(n, j, *s)] * ((i == j) - y[(n, i, *s)])
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


# --- pointwise ---


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


# --- normalisation ---


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


# --- optimiser steps ---


def sgd_step_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    value, grad, velocity = arrays
    lr, momentum, decay = attrs["lr"], attrs.get("momentum", 0.0), attrs.get("weight_decay", 0.0)
    new_value, new_velocity = zeros(*value.shape), zeros(*value.shape)
    for i in np.ndindex(*value.shape):
        g = float(grad[i]) + decay * float(value[i])
        v = momentum * float(velocity[i]) + g
        new_velocity[i] = v
        new_value[i] = float(value[i]) - lr * (g + momentum * v if attrs.get("nesterov", False) else v)
    return new_value, new_velocity


def adam_step_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    value, grad, mean, square = arrays
    beta1, beta2 = attrs.get("beta1", 0.9), attrs.get("beta2", 0.999)
    new = tuple(zeros(*value.shape) for _ in range(3))
    for i in np.ndindex(*value.shape):
        g = float(grad[i]) + attrs.get("weight_decay", 0.0) * float(value[i])
        m = beta1 * float(mean[i]) + (1 - beta1) * g
        s = beta2 * float(square[i]) + (1 - beta2) * g * g
        corrected = math.sqrt(s / (1 - beta2 ** attrs["step"])) + attrs.get("eps", 1e-8)
        new[0][i] = float(value[i]) - attrs["lr"] * (m / (1 - beta1 ** attrs["step"])) / corrected
        new[1][i], new[2][i] = m, s
    return new


class Loops(NamedTuple):
    forward: Callable[[Arrays, dict[str, Any]], Arrays]
    backward: Callable[[Arrays, dict[str, Any], Any], Arrays] | None


ORACLE = {
    "conv": Loops(conv_forward, conv_backward),
    "max_pool": Loops(max_pool_forward, max_pool_backward),
    "avg_pool": Loops(avg_pool_forward, avg_pool_backward),
    "maxout": Loops(maxout_forward, maxout_backward),
    "lp_pool": Loops(lp_pool_forward, lp_pool_backward),
    "gaussian_lp_pool": Loops(gaussian_lp_pool_forward, gaussian_lp_pool_backward),
    "stochastic_pool": Loops(stochastic_pool_forward, stochastic_pool_backward),
    "expectation_pool": Loops(expectation_pool_forward, expectation_pool_backward),
    "entropy_pool": Loops(entropy_pool_forward, entropy_pool_backward),
    "lp_unit": Loops(lp_unit_forward, lp_unit_backward),
    "linear": Loops(linear_forward, linear_backward),
    "softmax": Loops(softmax_forward, softmax_backward),
    "softmax_cross_entropy": Loops(softmax_cross_entropy_forward, softmax_cross_entropy_backward),
    "subtractive_norm": Loops(subtractive_norm_forward, subtractive_norm_backward),
    "divisive_norm": Loops(divisive_norm_forward, divisive_norm_backward),
    "lrn": Loops(lrn_forward, lrn_backward),
    "lrn_within": Loops(lrn_forward, lrn_backward),
    "relu": Loops(relu_forward, relu_backward),
    "sigmoid": Loops(sigmoid_forward, sigmoid_backward),
    "tanh": Loops(tanh_forward, tanh_backward),
    "dropout": Loops(dropout_forward, dropout_backward),
    "add": Loops(add_forward, add_backward),
    "concat": Loops(concat_forward, concat_backward),
    "slice": Loops(slice_forward, slice_backward),
    "sgd_step": Loops(sgd_step_forward, None),
    "adam_step": Loops(adam_step_forward, None),
}


def whole(loops: Loops) -> Loops:
    """A pool with all of S for its kernel."""

    def over(x: Any, attrs: dict[str, Any]) -> dict[str, Any]:
        return {**attrs, "kernel": tuple(x.shape[2:])}

    back = loops.backward
    assert back is not None
    return Loops(
        lambda a, attrs: loops.forward(a, over(a[0], attrs)), lambda a, attrs, dy: back(a, over(a[0], attrs), dy)
    )


ORACLE |= {f"global_{name}": whole(loops) for name, loops in ORACLE.items() if name.endswith("_pool")}
