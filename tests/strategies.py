"""What Hypothesis draws: problems from an op's own domain, memory layouts, and sizes around the edges of tiles."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from bounds import Problem, outputs_of
from hypothesis import settings
from hypothesis import strategies as st

from cnncore.ops.domain import Draw
from cnncore.ops.op import Op, run
from cnncore.ops.roles import INDEX, MAP, RANDOM
from cnncore.ops.spec import Case

DTYPES = (np.float32, np.float64)


def examples(count: int) -> settings:
    """`count` problems in the default profile, and as many more in another as that profile asks for."""
    return settings(max_examples=max(1, count * settings.default.max_examples // 25))


class HypothesisDraw(Draw):
    """A `Draw` whose integers and choices Hypothesis makes and shrinks; the values come from one drawn seed.

    `spread` narrows every integer to [low, low + spread], for the slow nested loops.
    """

    def __init__(self, data: Any, spread: int | None = None) -> None:
        super().__init__(data.draw(st.integers(0, 2**16), label="seed"))
        self.data, self.spread = data, spread

    def integer(self, low: int, high: int) -> int:
        high = high if self.spread is None else min(high, low + self.spread)
        return int(self.data.draw(st.integers(low, high)))


# --- memory layouts: the same values, elsewhere ---


def sliced(a: np.ndarray) -> np.ndarray:
    """Every second element of a larger array, along every axis; what lies between must not matter."""
    big = np.full(tuple(2 * n for n in a.shape), 77 if a.dtype.kind in "iu" else np.nan, a.dtype)
    view = big[tuple(slice(None, None, 2) for _ in a.shape)]
    view[...] = a
    return view


def channels_last(a: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1) if a.ndim > 2 else a


def negative(a: np.ndarray) -> np.ndarray:
    flip = tuple(slice(None, None, -1) for _ in a.shape)
    return np.ascontiguousarray(a[flip])[flip]


def read_only(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


def transposed(a: np.ndarray) -> np.ndarray:
    """First and last axis exchanged in memory."""
    return np.ascontiguousarray(np.swapaxes(a, 0, -1)).swapaxes(0, -1) if a.ndim > 1 else a


def unaligned(a: np.ndarray) -> np.ndarray:
    out = np.ndarray(a.shape, a.dtype, buffer=bytearray(a.nbytes + 1), offset=1)
    out[...] = a
    return out


def padded_rows(a: np.ndarray) -> np.ndarray:
    """A crop of a larger array: contiguous rows, but a gap after each."""
    big = np.full(tuple(n + 3 for n in a.shape), 77 if a.dtype.kind in "iu" else np.nan, a.dtype)
    view = big[tuple(slice(1, n + 1) for n in a.shape)]
    view[...] = a
    return view


def stride_zero(a: np.ndarray) -> np.ndarray:
    """One value for the whole of the longest axis (this one changes the values)."""
    if not a.size:
        return a
    axis = int(np.argmax(a.shape))
    return np.broadcast_to(np.take(a, [0], axis), a.shape)


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "contiguous": np.ascontiguousarray,
    "channels_last": channels_last,
    "sliced": sliced,
    "negative": negative,
    "read_only": read_only,
    "fortran": np.asfortranarray,
    "transposed": transposed,
    "unaligned": unaligned,
    "padded_rows": padded_rows,
    "stride_zero": stride_zero,
}


def layout(data: Any, a: Any) -> Any:
    """`a` in a drawn layout; None, keys and scalars stay."""
    return (
        a if a is None or isinstance(a, tuple) or a.ndim == 0 else LAYOUTS[data.draw(st.sampled_from(list(LAYOUTS)))](a)
    )


# --- problems ---


def cast(op: Op, case: Case, dtype: Any) -> tuple[Any, ...]:
    roles = op.roles(case.arrays)
    return tuple(
        a if a is None or isinstance(a, tuple) or r == INDEX else uniforms(a, dtype) if r == RANDOM else a.astype(dtype)
        for a, r in zip(case.arrays, roles, strict=True)
    )


def uniforms(u: np.ndarray, dtype: Any) -> np.ndarray:
    """u in the dtype, cut to 24 bits so that rounding cannot give 1."""
    return (np.floor(u * 2**24) / 2**24).astype(dtype)


def problem(data: Any, op: Op, dtype: Any, case: Case, layouts: bool = True) -> Problem:
    """The case in a dtype, with a drawn layout for every array and a drawn dy."""
    arrays = cast(op, case, dtype)
    if layouts:
        arrays = tuple(layout(data, a) for a in arrays)
    if op.backward is None:
        return Problem(op, arrays, case.attrs, dtype)
    y, _ = run(op, tuple(a if a is None else np.array(a) for a in arrays), case.attrs, "numpy")
    seed = data.draw(st.integers(0, 2**16), label="dy")
    dy = np.random.default_rng(seed).standard_normal(np.shape(outputs_of(op, y)[0])).astype(dtype)
    return Problem(op, arrays, case.attrs, dtype, layout(data, dy) if layouts else dy)


# --- sizes around vector and tile edges (XNNPACK's idea: below, at and above each), larger than the domains' ---

CHANNELS = [*range(1, 34), 47, 48, 49, 63, 64, 65]
PIXELS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13]
LENGTHS = [1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1023, 1025]


def edge_case(draw: HypothesisDraw, op: Op) -> Case:
    """A problem at sizes around tile edges for the ops that are tiled; other ops' own domain."""
    return EDGES.get(op.name, op.domain)(draw)


def _image(draw: HypothesisDraw) -> tuple[int, ...]:
    return tuple(draw.choice(PIXELS) for _ in range(draw.choice([2, 2, 2, 1, 3])))


def _windows(draw: HypothesisDraw, size: tuple[int, ...]) -> dict[str, Any]:
    """Window attributes that fit `size`, most often the kernels that have a fast path."""
    same = draw.choice([1, 2, 3, 5])
    kernel = tuple(min(same, n) for n in size)
    pads = tuple((draw.integer(0, k // 2), draw.integer(0, k // 2)) for k in kernel)
    return {"kernel": kernel, "stride": draw.choice([1, 2, 1, 3]), "padding": pads}


def _conv_edge(draw: HypothesisDraw) -> Case:
    size = _image(draw)
    attrs = _windows(draw, size)
    c, k, groups = draw.choice(CHANNELS), draw.choice(CHANNELS), 1
    split = draw.choice(["dense", "dense", "depthwise", "two"])
    if split == "depthwise":
        groups, k = c, c * draw.integer(1, 2)
    if split == "two":
        groups, c, k = 2, 2 * draw.choice(CHANNELS[:17]), 2 * draw.choice(CHANNELS[:17])
    kernel = attrs.pop("kernel")
    n = 1 if c * k * math.prod(size) * math.prod(kernel) > 2**21 else draw.integer(1, 3)
    if size == (13, 13, 13):
        size = size[1:] + (5,)
    w, b = draw.normal(k, c // groups, *kernel), draw.choice([draw.normal(k), None])
    algorithm = draw.choice(["direct", "auto"])
    return Case((draw.normal(n, c, *size), w, b), {**attrs, "groups": groups, "algorithm": algorithm})


def _pool_edge(draw: HypothesisDraw) -> Case:
    size = _image(draw)
    x, gap = draw.distinct(draw.integer(1, 3), draw.choice(CHANNELS), *size)
    return Case((x,), {**_windows(draw, size), "ceil_mode": draw.choice([False, True])}, gap)


def _maxout_edge(draw: HypothesisDraw) -> Case:
    size, pieces = _image(draw), draw.choice([1, 2, 3, 5])
    x, gap = draw.distinct(draw.integer(1, 3), draw.choice(CHANNELS[:24]) * pieces, *size)
    plain = {"kernel": 1, "stride": 1, "padding": 0}
    return Case((x,), {"pieces": pieces, **draw.choice([plain, _windows(draw, size)])}, gap)


def _lp_unit_edge(draw: HypothesisDraw) -> Case:
    case = _maxout_edge(draw)
    x = draw.normal(*case.arrays[0].shape)
    groups = x.shape[1] // case.attrs["pieces"]
    center = draw.choice([0.1 * draw.normal(x.shape[1]), None])
    return Case((np.where(np.abs(x) < 0.5, 2 * np.sign(x), x), 2 * draw.normal(groups), center), case.attrs)


def _avg_edge(draw: HypothesisDraw) -> Case:
    case = _pool_edge(draw)
    return Case(case.arrays, {**case.attrs, "count_include_pad": draw.choice([False, True])})


def _shape_edge(draw: HypothesisDraw) -> tuple[int, ...]:
    return draw.choice([(draw.choice(LENGTHS),), (draw.integer(1, 3), draw.choice(CHANNELS), *_image(draw)[:2])])


def _linear_edge(draw: HypothesisDraw) -> Case:
    n, f, o = draw.choice(CHANNELS), draw.choice(LENGTHS), draw.choice(CHANNELS)
    return Case((draw.normal(n, f), draw.normal(o, f), draw.choice([draw.normal(o), None])), {})


def _softmax_edge(draw: HypothesisDraw) -> Case:
    shape = [draw.integer(1, 3), draw.choice(LENGTHS), *_image(draw)[: draw.integer(0, 2)]]
    axis = draw.choice([1, 1, draw.integer(-len(shape), len(shape) - 1)])
    return Case((3 * draw.normal(*shape),), {"axis": axis})


def _cross_entropy_edge(draw: HypothesisDraw) -> Case:
    n, k = draw.choice(LENGTHS), draw.choice(CHANNELS)
    labels = draw.rng.integers(0, k, n).astype(draw.choice([np.int64, np.int32, np.uint8, np.int16]))
    return Case((3 * draw.normal(n, k), labels), {"reduction": draw.choice(["mean", "sum"])})


def _lrn_edge(draw: HypothesisDraw) -> Case:
    x = draw.normal(draw.integer(1, 3), draw.choice(CHANNELS), *_image(draw))
    beta = draw.choice([0.75, 0.5, 1.0, 0.3])
    return Case((x,), {"size": draw.choice([1, 3, 5, 8, 97]), "alpha": 0.1, "beta": beta})


def _lrn_within_edge(draw: HypothesisDraw) -> Case:
    x = draw.normal(draw.integer(1, 3), draw.choice(CHANNELS), *_image(draw))
    return Case((x,), {"kernel": draw.choice([1, 2, 3, 5, 9]), "alpha": 0.1, "beta": draw.choice([0.75, 0.3])})


def _contrast_edge(draw: HypothesisDraw) -> Case:
    x = draw.normal(draw.integer(1, 3), draw.choice(CHANNELS), *_image(draw))
    return Case((x,), {"kernel": draw.choice([1, 2, 3, 5, 9, 30]), "sigma": draw.choice([None, 0.5, 3.0])})


def _relu_edge(draw: HypothesisDraw) -> Case:
    x, gap = draw.distinct(*_shape_edge(draw))
    return Case((x,), {}, gap)


def _smooth_edge(draw: HypothesisDraw) -> Case:
    return Case((draw.choice([1, 10, 100]) * draw.normal(*_shape_edge(draw)),), {})


def _dropout_edge(draw: HypothesisDraw) -> Case:
    shape, p = _shape_edge(draw), draw.choice([0.0, 0.25, 0.5, 0.9])
    if len(shape) > 1 and draw.choice([False, True]):
        return Case((draw.normal(*shape), draw.uniform(*shape[:2], *(1,) * (len(shape) - 2))), {"p": p, "per": "map"})
    return Case((draw.normal(*shape), draw.uniform(*shape)), {"p": p})


def _add_edge(draw: HypothesisDraw) -> Case:
    shape = _shape_edge(draw)
    return Case(tuple(draw.normal(*shape) for _ in range(draw.integer(1, 9))), {})


def _concat_edge(draw: HypothesisDraw) -> Case:
    shape = (draw.integer(1, 3), 1, *_image(draw))
    axis = draw.integer(0, len(shape) - 1)
    parts = (draw.choice(CHANNELS) for _ in range(draw.integer(1, 4)))
    return Case(tuple(draw.normal(*shape[:axis], n, *shape[axis + 1 :]) for n in parts), {"axis": axis})


def _slice_edge(draw: HypothesisDraw) -> Case:
    shape = (draw.integer(1, 3), draw.choice(CHANNELS), *_image(draw))
    start, stop = sorted((draw.integer(0, shape[1]), draw.integer(0, shape[1])))
    return Case((draw.normal(*shape),), {"start": start, "stop": stop})


def _sgd_edge(draw: HypothesisDraw) -> Case:
    n = draw.choice(LENGTHS)
    attrs = {"lr": 0.1, "momentum": draw.choice([0.0, 0.9]), "nesterov": draw.choice([False, True])}
    return Case(tuple(draw.normal(n) for _ in range(3)), {**attrs, "weight_decay": draw.choice([0.0, 0.01])})


def _adam_edge(draw: HypothesisDraw) -> Case:
    n = draw.choice(LENGTHS)
    attrs = {"lr": 0.01, "step": draw.choice([1, 2, 1000]), "weight_decay": draw.choice([0.0, 0.01])}
    return Case((draw.normal(n), draw.normal(n), draw.normal(n), draw.normal(n) ** 2), attrs)


EDGES: dict[str, Callable[[HypothesisDraw], Case]] = {
    "conv": _conv_edge,
    "conv_relu": _conv_edge,
    "max_pool": _pool_edge,
    "relu_max_pool": _pool_edge,
    "avg_pool": _avg_edge,
    "maxout": _maxout_edge,
    "lp_unit": _lp_unit_edge,
    "linear": _linear_edge,
    "softmax": _softmax_edge,
    "softmax_cross_entropy": _cross_entropy_edge,
    "lrn": _lrn_edge,
    "lrn_within": _lrn_within_edge,
    "subtractive_norm": _contrast_edge,
    "divisive_norm": _contrast_edge,
    "relu": _relu_edge,
    "sigmoid": _smooth_edge,
    "tanh": _smooth_edge,
    "dropout": _dropout_edge,
    "add": _add_edge,
    "concat": _concat_edge,
    "slice": _slice_edge,
    "sgd_step": _sgd_edge,
    "adam_step": _adam_edge,
}


def maps(op: Op, arrays: tuple[Any, ...]) -> list[int]:
    """Which arguments are feature maps with at least one spatial axis."""
    return [i for i, (r, a) in enumerate(zip(op.roles(arrays), arrays, strict=True)) if r == MAP and a.ndim > 2]
