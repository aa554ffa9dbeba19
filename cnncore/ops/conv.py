"""Convolution at rank 1, 2 and 3, alone and with ReLU behind it. Kernels: csrc/conv.c, conv_cuda.py."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..errors import CnncoreError, DTypeError, ShapeError
from . import domain, geometry
from .op import Op
from .pointwise import relu_backward, relu_forward
from .records import register
from .roles import DENSE, MAP
from .spec import Arrays, Case, Spec
from .sums import total

ALGORITHMS = ("auto", "direct", "winograd")  # numbered as in csrc/conv_winograd.h


def conv_rule(
    x: Any, w: Any, b: Any = None, *,
    stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, algorithm: str = "auto",
) -> Spec:  # fmt: skip
    """Convolution (cross-correlation, as in every framework) of feature maps with filters.

    y[n,k,o] = b[k] + sum over c, t of w[k,c,t] xpad[n, g C/groups + c, stride o + dilation t],  g = group of map k

    Shapes: x (N, C, *S), w (K, C/groups, *kernel), b (K,) or None, y (N, K, *O), rank 1 to 3. `stride`, `dilation`: an
    int or one per axis; `padding`: an int, one per axis, or a (begin, end) pair per axis, of zeros.

    Gradient: db[k] = sum of dy[:,k]; dw[k,c,t] = sum over n, o of dy[n,k,o] xpad[n,c,stride o + dilation t];
    dx is the transposed map: dxpad[n,c,stride o + dilation t] += sum over k of w[k,c,t] dy[n,k,o].

    Edges: a window of padding alone gives b. NaN and Inf propagate to the outputs whose window holds them. An empty
    batch gives an empty y and zero dw, db. groups = C is depthwise.

    `algorithm`: how the C kernels compute it. "direct" sums the products above as they stand. "winograd" transforms
    tiles of 4x4 outputs, for 3x3 and 5x5 kernels of stride and dilation 1 in float32: 4 and 6.25 times fewer
    multiplications, and an error of at most 2e-6 (5x5: 4e-6) times the sum of a filter's |w| times the largest |x|. Of
    x and w around 0 that is about 1e-6 and 3e-6 of |y|; where large terms cancel, as those of an x far from 0 under
    filters of sum 0 do, it is more of |y|, and "direct" errs less (docs/kernels/winograd.md). "auto" takes the cheaper
    one, in float64 always the direct one. NumPy and CUDA compute as with "direct", and so does C for 5x5 where y is
    smaller than a tile along an axis, and for more than 4096 channels.

    Raises ShapeError, DTypeError, CnncoreError.
    Source: the paper's 1.1 and 1.3; groups are Krizhevsky et al. 2012's split over two GPUs;
    Winograd's tiles are Lavin and Gray's, 2016.
    """
    return _convolution("conv", x, w, b, stride, padding, dilation, groups, algorithm, 0)


def conv_relu_rule(
    x: Any, w: Any, b: Any = None, *,
    stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, algorithm: str = "auto",
) -> Spec:  # fmt: skip
    """`relu` of `conv`, fused: what a convolution followed by ReLU is to containers.

    y = max(0, conv(x, w, b))

    The sums are rectified before they are stored, so that memory is passed over once less; y is all that ReLU keeps.

    Shapes: those of `conv`, whose attributes it has. Gradient: that of `conv` for dy where y > 0, else 0.

    Edges: those of `relu` and `conv`: the gradient at y = 0 is 0, NaN stays NaN and passes dy.
    Raises ShapeError, DTypeError, CnncoreError.
    Source: the paper's 1.3.
    """
    return _convolution("conv_relu", x, w, b, stride, padding, dilation, groups, algorithm, 1)


def _convolution(
    op: str, x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: Any, algorithm: str, relu: int
) -> Spec:
    rank = len(x.shape) - 2
    if not 1 <= rank <= 3:
        raise ShapeError(f"{op}: x must be (N, C, *S) with 1 to 3 spatial axes, got shape {tuple(x.shape)}")
    if len(w.shape) != rank + 2:
        raise ShapeError(f"{op}: w must be (K, C/groups, *kernel) with {rank} spatial axes, got shape {tuple(w.shape)}")
    groups = geometry.integer(op, "groups", groups, 1)
    (n, c), (k, per_group) = x.shape[:2], w.shape[:2]
    if c != per_group * groups:
        raise ShapeError(f"{op}: w has {per_group} input channels per group, x has {c} with groups={groups}")
    if k == 0 or c == 0 or k % groups:
        raise ShapeError(
            f"{op}: output channels ({k}) must be a positive multiple of groups ({groups}), C={c} positive"
        )
    if b is not None and tuple(b.shape) != (k,):
        raise ShapeError(f"{op}: b must have shape ({k},), got {tuple(b.shape)}")
    window = geometry.resolve(op, x.shape[2:], w.shape[2:], stride, padding, dilation)
    geometry.elements(op, (n, c, *window.padded))
    if algorithm != "auto":
        _check_algorithm(op, algorithm, window, x)
    params = SimpleNamespace(window=window, groups=groups, algorithm=ALGORITHMS.index(algorithm), relu=relu)
    return Spec(params, {"y": ((n, k, *window.out), None)})


def _check_algorithm(op: str, algorithm: str, window: geometry.Window, x: Any) -> None:
    if algorithm not in ALGORITHMS:
        raise CnncoreError(f"{op}: algorithm must be one of {', '.join(map(repr, ALGORITHMS))}, got {algorithm!r}")
    if algorithm != "winograd":
        return
    if window.kernel not in ((3, 3), (5, 5)):
        raise ShapeError(f"{op}: algorithm 'winograd' needs a kernel of (3, 3) or (5, 5), got {window.kernel}")
    for name in ("stride", "dilation"):
        if getattr(window, name) != (1, 1):
            raise ShapeError(f"{op}: algorithm 'winograd' needs a {name} of 1, got {getattr(window, name)}")
    if x.dtype != np.float32:
        raise DTypeError(f"{op}: algorithm 'winograd' needs float32, got {x.dtype}")


def _grouped(a: np.ndarray, groups: int, axis: int) -> np.ndarray:
    """Split a channel axis into (groups, channels per group)."""
    return a.reshape(*a.shape[:axis], groups, a.shape[axis] // groups, *a.shape[axis + 1 :])


def _flat(a: np.ndarray) -> np.ndarray:
    """(N, groups, channels, *O) with all of O in one axis."""
    return a.reshape(*a.shape[:3], math.prod(a.shape[3:]))


def _wide(a: np.ndarray) -> np.ndarray:
    """In float64, so that sums keep their digits; their results are rounded to the dtype once."""
    return a.astype(np.float64, copy=False)


def conv_forward(p: Any, x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> Arrays:
    padded = _grouped(p.window.pad(_wide(x)), p.groups, 1)
    filters = _grouped(_wide(w), p.groups, 0).reshape(p.groups, w.shape[0] // p.groups, w.shape[1], -1)
    y = np.zeros((x.shape[0], *filters.shape[:2], *p.window.out))
    for t, at in p.window.offsets():
        y += np.einsum("ngc...,gkc->ngk...", padded[(..., *at)], filters[..., t])
    y = y.reshape(x.shape[0], w.shape[0], *p.window.out)
    if b is not None:
        y += b.reshape(-1, *(1,) * len(p.window.out))
    return (y.astype(x.dtype, copy=False),)


def conv_backward(p: Any, needs: tuple[bool, ...], dy: np.ndarray, x: np.ndarray, w: np.ndarray) -> Arrays:
    padded = _grouped(p.window.pad(_wide(x)), p.groups, 1)
    filters = _grouped(_wide(w), p.groups, 0).reshape(p.groups, w.shape[0] // p.groups, w.shape[1], -1)
    above = _grouped(_wide(dy), p.groups, 1)
    dpadded, dfilters = np.zeros_like(padded), np.zeros_like(filters)
    for t, at in p.window.offsets():
        if needs[0]:
            dpadded[(..., *at)] += np.einsum("ngk...,gkc->ngc...", above, filters[..., t])
        if needs[1]:
            patch = padded[(..., *at)]
            dfilters[..., t] = np.einsum("ngko,ngco->gkc", _flat(above), _flat(patch))
    return (
        dpadded.reshape(*x.shape[:2], *p.window.padded)[p.window.inside].astype(x.dtype) if needs[0] else None,
        dfilters.reshape(w.shape).astype(w.dtype, copy=False) if needs[1] else None,
        total(dy, (0, *range(2, dy.ndim))) if needs[2] else None,
    )


def conv_relu_forward(p: Any, x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> Arrays:
    return relu_forward(p, *conv_forward(p, x, w, b))


def conv_relu_backward(
    p: Any, needs: tuple[bool, ...], dy: np.ndarray, x: np.ndarray, w: np.ndarray, y: np.ndarray
) -> Arrays:
    (above,) = relu_backward(p, (True,), dy, y)
    return conv_backward(p, needs, above, x, w)


def conv_domain(draw: domain.Draw) -> Case:
    size, attrs = domain.window(draw)
    groups = draw.choice([1, 1, 2, 3])
    c, k = groups * draw.integer(1, 3), groups * draw.integer(1, 3)
    x = draw.normal(draw.integer(1, 2), c, *size)
    w = draw.normal(k, c // groups, *attrs.pop("kernel"))
    return Case((x, w, draw.choice([draw.normal(k), None])), {**attrs, "groups": groups})


def conv_flops(spec: Spec, arrays: Arrays) -> tuple[int, int]:
    forward = 2 * math.prod(spec.results["y"][0]) * math.prod(arrays[1].shape[1:])
    return forward, 2 * forward


conv = register(
    Op(
        name="conv",
        rule=conv_rule,
        forward=conv_forward,
        backward=conv_backward,
        arrays={"x": MAP, "w": DENSE, "b": DENSE},
        saved=("x", "w"),
        domain=conv_domain,
        flops=conv_flops,
    )
)

conv_relu = register(
    Op(
        name="conv_relu",
        rule=conv_relu_rule,
        forward=conv_relu_forward,
        backward=conv_relu_backward,
        arrays={"x": MAP, "w": DENSE, "b": DENSE},
        saved=("x", "w", "y"),
        domain=conv_domain,
        flops=conv_flops,
    )
)
