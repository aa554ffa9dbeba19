"""Element by element: relu, sigmoid, tanh, dropout, add, concat, slice. Kernels: csrc/pointwise.c,
pointwise_cuda.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from ..errors import CnncoreError, ShapeError
from . import domain, geometry, scalars
from .op import Op
from .records import register
from .roles import MANY, MAP, RANDOM
from .spec import Arrays, Case, Spec, flops_free


def _shape(draw: domain.Draw) -> tuple[int, ...]:
    """Any shape of 1 to 5 axes."""
    return tuple(draw.integer(1, 5) for _ in range(draw.integer(1, 5)))


# --- relu ---


def relu_rule(x: Any) -> Spec:
    """Rectified linear unit.

    y = max(0, x).   Gradient: dy where y > 0, else 0.

    Shapes: x of any shape (up to 5 axes), y the same. Keeps its output, not its input, for the backward.
    Edges: the gradient at x = 0 is 0. NaN stays NaN, and passes dy.
    Raises ShapeError, DTypeError.
    Source: the paper's 1.3.
    """
    return Spec(SimpleNamespace(), {"y": (tuple(x.shape), None)})


def relu_forward(p: Any, x: np.ndarray) -> Arrays:
    return (np.maximum(x, 0),)


def relu_backward(p: Any, needs: tuple[bool, ...], dy: np.ndarray, y: np.ndarray) -> Arrays:
    return (np.where(y <= 0, 0, dy) if needs[0] else None,)


def relu_domain(draw: domain.Draw) -> Case:
    x, gap = draw.distinct(*_shape(draw))
    return Case((x,), {}, gap)


relu = register(
    Op(
        "relu", relu_rule, relu_forward, relu_backward, {"x": MAP}, ("y",), relu_domain, flops_free,
        elementwise=True,
    )
)  # fmt: skip

# --- sigmoid and tanh ---


def sigmoid_rule(x: Any) -> Spec:
    """Logistic function.

    y = 1 / (1 + exp(-x)).   Gradient: dy y (1 - y).

    Shapes: x of any shape (up to 5 axes), y the same. Keeps its output, not its input, for the backward.
    Edges: computed from exp(-|x|), so that no x overflows; 0 at -Inf, 1 at Inf. NaN stays NaN.
    Raises ShapeError, DTypeError.
    Source: the paper's 1.3.
    """
    return Spec(SimpleNamespace(), {"y": (tuple(x.shape), None)})


def sigmoid_forward(p: Any, x: np.ndarray) -> Arrays:
    e = np.exp(-np.abs(x))
    return (np.where(x >= 0, 1, e) / (1 + e),)


def sigmoid_backward(p: Any, needs: tuple[bool, ...], dy: np.ndarray, y: np.ndarray) -> Arrays:
    return (np.asarray(dy * y * (1 - y)) if needs[0] else None,)


def tanh_rule(x: Any) -> Spec:
    """Hyperbolic tangent.

    y = (exp(x) - exp(-x)) / (exp(x) + exp(-x)).   Gradient: dy (1 - y)(1 + y).

    Shapes: x of any shape (up to 5 axes), y the same. Keeps its output, not its input, for the backward.
    Edges: no x overflows, small x keep their precision; -1 at -Inf, 1 at Inf. NaN stays NaN.
    Raises ShapeError, DTypeError.
    Source: the paper's 1.3.
    """
    return Spec(SimpleNamespace(), {"y": (tuple(x.shape), None)})


def tanh_forward(p: Any, x: np.ndarray) -> Arrays:
    return (np.asarray(np.tanh(x)),)


def tanh_backward(p: Any, needs: tuple[bool, ...], dy: np.ndarray, y: np.ndarray) -> Arrays:
    return (np.asarray(dy * ((1 - y) * (1 + y))) if needs[0] else None,)


def smooth_domain(draw: domain.Draw) -> Case:
    return Case((2 * draw.normal(*_shape(draw)),), {})


sigmoid = register(
    Op(
        "sigmoid", sigmoid_rule, sigmoid_forward, sigmoid_backward, {"x": MAP}, ("y",), smooth_domain, flops_free,
        elementwise=True,
    )
)  # fmt: skip
tanh = register(
    Op(
        "tanh", tanh_rule, tanh_forward, tanh_backward, {"x": MAP}, ("y",), smooth_domain, flops_free,
        elementwise=True,
    )
)  # fmt: skip

# --- dropout ---


def dropout_rule(x: Any, u: Any, *, p: float = 0.5, per: str = "element") -> Spec:
    """Inverted dropout: each element, or each map as a whole, is dropped with probability p, the others are scaled up.

    y = x / (1 - p) where u >= p, else 0.

    Gradient: dy / (1 - p) where kept, else 0.

    Shapes: per="element": x of any shape (up to 5 axes), u uniforms in [0, 1) of x's shape. per="map": x (N, C, *S),
    u (N, C, 1, ...). u may be a key (seed, counter) instead.
    Edges: p = 0 is the identity; a dropped element is 0 even where x is NaN or Inf. p is compared in x's dtype.
    Raises ShapeError, DTypeError, CnncoreError unless 0 <= p < 1 and `per` is one of the two.
    Source: the paper's 1.3; Hinton et al. 2012; per map, Tompson et al. 2015 (neighbours in a map are alike, so that
    dropping single ones hides little).
    """
    share = scalars.number(p)
    if share is None or not 0 <= share < 1:
        raise CnncoreError(f"dropout: p must be a number with 0 <= p < 1, got {p!r}")
    if not isinstance(per, str) or per not in ("element", "map"):
        raise CnncoreError(f"dropout: per must be 'element' or 'map', got {per!r}")
    shape = drawn = tuple(x.shape)
    if per == "map":
        if len(shape) < 2:
            raise ShapeError(f"dropout: x must be (N, C, *S) where maps are dropped, got shape {shape}")
        drawn = (*shape[:2], *(1,) * (len(shape) - 2))
    params = SimpleNamespace(p=float(share), maps=per == "map")
    return Spec(params, {"y": (shape, None), "kept": (drawn, np.uint8)}, random=drawn)


def dropout_forward(p: Any, x: np.ndarray, u: np.ndarray) -> Arrays:
    kept = u >= x.dtype.type(p.p)
    return np.where(kept, x * x.dtype.type(1 / (1 - p.p)), 0), kept.astype(np.uint8)


def dropout_backward(p: Any, needs: tuple[bool, ...], dy: np.ndarray, kept: np.ndarray) -> Arrays:
    return (np.where(kept, dy * dy.dtype.type(1 / (1 - p.p)), 0) if needs[0] else None, None)


def dropout_domain(draw: domain.Draw) -> Case:
    shape, per = _shape(draw), draw.choice(["element", "map"])
    per = per if len(shape) > 1 else "element"
    drawn = shape if per == "element" else (*shape[:2], *(1,) * (len(shape) - 2))
    return Case((draw.normal(*shape), draw.uniform(*drawn)), {"p": draw.choice([0.0, 0.25, 0.5, 0.9]), "per": per})


dropout = register(
    Op(
        "dropout", dropout_rule, dropout_forward, dropout_backward, {"x": MAP, "u": RANDOM}, ("kept",),
        dropout_domain, flops_free, elementwise=True,
    ),
)  # fmt: skip

# --- add, concat and slice: where parallel paths meet and part ---


def add_rule(*xs: Any) -> Spec:
    """Sum of any number of arrays of one shape.

    y = sum over i of xs[i], from the left.   Gradient: dy to each.

    Shapes: all equal (nothing is broadcast), up to 5 axes.
    Edges: one array alone gives a copy of it; Inf - Inf gives NaN.
    Raises ShapeError, DTypeError.
    Source: ONNX's Sum.
    """
    for i, x in enumerate(xs):
        if tuple(x.shape) != tuple(xs[0].shape):
            raise ShapeError(f"add: xs{i} must have the shape of xs0, {tuple(xs[0].shape)}, got {tuple(x.shape)}")
    return Spec(SimpleNamespace(count=len(xs)), {"y": (tuple(xs[0].shape), None)})


def add_forward(p: Any, *xs: np.ndarray) -> Arrays:
    y = xs[0].copy()
    for x in xs[1:]:
        y += x
    return (y,)


def add_backward(p: Any, needs: tuple[bool, ...], dy: np.ndarray) -> Arrays:
    return tuple(dy.copy() if need else None for need in needs)


def add_domain(draw: domain.Draw) -> Case:
    shape = _shape(draw)
    return Case(tuple(draw.normal(*shape) for _ in range(draw.integer(1, 4))), {})


add = register(Op("add", add_rule, add_forward, add_backward, {"xs": MANY}, (), add_domain, flops_free))


def concat_rule(*xs: Any, axis: int = 1) -> Spec:
    """Any number of arrays, one behind the other along an axis (1: the maps).

    y[start_i + j] = xs[i][j] along the axis, start_i the length of all arrays before.   Gradient: each its slice of dy.

    Shapes: equal but for `axis`, which may be negative; up to 5 axes.
    Edges: one array alone gives a copy of it; an array may have length 0 along the axis.
    Raises ShapeError, DTypeError.
    Source: ONNX's Concat; the paper's 2.3 concatenates what different pooling ops give.
    """
    rank = len(xs[0].shape)
    axis = geometry.integer("concat", "axis", axis, -rank)
    if axis >= rank:
        raise ShapeError(f"concat: axis must be below the number of axes ({rank}), got {axis}")
    axis %= rank
    shape = list(xs[0].shape)
    for i, x in enumerate(xs):
        if len(x.shape) != rank or any(x.shape[a] != shape[a] for a in range(rank) if a != axis):
            raise ShapeError(
                f"concat: xs{i} must have the shape of xs0, {tuple(shape)}, but for axis {axis}; got {tuple(x.shape)}"
            )
    sizes = [x.shape[axis] for x in xs]
    shape[axis] = sum(sizes)
    return Spec(SimpleNamespace(axis=axis, rank=rank, count=len(xs), sizes=tuple(sizes)), {"y": (tuple(shape), None)})


def concat_forward(p: Any, *xs: np.ndarray) -> Arrays:
    return (np.concatenate(xs, axis=p.axis),)


def concat_backward(p: Any, needs: tuple[bool, ...], dy: np.ndarray) -> Arrays:
    parts = np.split(dy, np.cumsum(p.sizes)[:-1], axis=p.axis)
    return tuple(part.copy() if need else None for need, part in zip(needs, parts, strict=True))


def concat_domain(draw: domain.Draw) -> Case:
    shape = _shape(draw)
    axis = draw.integer(0, len(shape) - 1)
    parts = [
        draw.normal(*shape[:axis], draw.integer(1, 4), *shape[axis + 1 :]) for _ in range(draw.integer(1, 4))
    ]  # fmt: skip
    return Case(tuple(parts), {"axis": draw.choice([axis, axis - len(shape)])})


concat = register(
    Op("concat", concat_rule, concat_forward, concat_backward, {"xs": MANY}, (), concat_domain, flops_free)
)


def slice_rule(x: Any, *, start: int, stop: int) -> Spec:
    """Some of the maps: those from `start` to before `stop`.

    y[:, j] = x[:, start + j], 0 <= j < stop - start.   Gradient: dy to these maps, 0 to the others.

    Shapes: x (N, C, ...), up to 5 axes, 0 <= start <= stop <= C, to y (N, stop - start, ...).
    Edges: y may have no maps, or all.
    Raises ShapeError, DTypeError.
    Source: ONNX's Slice; the paper's 2.3 pools some maps in one way, others in another.
    """
    if len(x.shape) < 2:
        raise ShapeError(f"slice: x must be (N, C, ...), got shape {tuple(x.shape)}")
    n, c, *rest = x.shape
    start, stop = geometry.integer("slice", "start", start, 0), geometry.integer("slice", "stop", stop, 0)
    if not start <= stop <= c:
        raise ShapeError(f"slice: expected start <= stop <= {c}, the maps of x; got start={start}, stop={stop}")
    return Spec(SimpleNamespace(start=start, stop=stop, maps=c), {"y": ((n, stop - start, *rest), None)})


def slice_forward(p: Any, x: np.ndarray) -> Arrays:
    return (x[:, p.start : p.stop].copy(),)


def slice_backward(p: Any, needs: tuple[bool, ...], dy: np.ndarray) -> Arrays:
    if not needs[0]:
        return (None,)
    dx = np.zeros((len(dy), p.maps, *dy.shape[2:]), dy.dtype)
    dx[:, p.start : p.stop] = dy
    return (dx,)


def slice_domain(draw: domain.Draw) -> Case:
    x = draw.normal(draw.integer(1, 3), draw.integer(1, 6), *_shape(draw)[:3])
    start = draw.integer(0, x.shape[1] - 1)
    return Case((x,), {"start": start, "stop": draw.integer(start + 1, x.shape[1])})


slice = register(Op("slice", slice_rule, slice_forward, slice_backward, {"x": MAP}, (), slice_domain, flops_free))
