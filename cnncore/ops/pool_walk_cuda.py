"""The window walk of pooling on the device, forward and backward. In C: csrc/pool_walk.h.

`variant` makes an op's two kernels, and what launches them, of two device functions:

    reduce(m, w, flag, p) -> y, (float, ...), (index, ...)    of the window w in the maps m: Inputs
    spread(m, e, flag, p) -> what x gets of one dy            through the link e in the maps m: Saved

The two tuples are what forward keeps beside y: the op's results of floats, and those of int32, each in order. They
have at least one entry; an entry for which the op has no result goes nowhere. `reduce` reads its window with `over`,
which holds the only loop over taps; `spread` is called in the only loop over the outputs that read an input. An array
that a variant has not is one without planes.

Maps are (N C, positions), contiguous: a plane per image and map (channels-last maps were copied on entry). Threads run
along the positions of a plane, so that a warp reads and writes neighbours, and along planes; where a position's windows
lie is worked out once for all planes of a thread. Forward, a thread owns outputs and takes taps in row-major order, so
ties go to the first. Backward, it owns inputs and gathers: nothing is zeroed, no atomics, one order of sums. Sums are
float64, forward and backward, so that those of many terms keep their digits.
Weak spot: of planes with few outputs (a global pool has one) neighbouring threads read distant elements.
"""

import math
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import numpy as np

from ..backends.kernel import (
    Arg,
    Float2,
    Float3,
    Int,
    Kernel,
    Real,
    Several,
    copy,
    cuda,
    device,
    empty,
    kernel,
    view,
)
from .geometry_cuda import Walk, WalkArg, readers, taps, unravel, walk
from .records import registry

Arrays = tuple[Any, ...]
Three = tuple[int, int, int]
Place = tuple[int, int]  # plane, position


class Inputs(NamedTuple):
    """What forward reads. u: uniforms, one per output. weights: (axis, output, tap), see `weight`."""

    x: Any
    u: Any
    weights: Any


class Saved(NamedTuple):
    """What backward reads. floats, indices: what forward kept, of each kind in the order of the op's `saved`."""

    dy: Any
    x: Any
    y: Any
    floats: Any
    indices: Any
    weights: Any


class Window(NamedTuple):
    """The window of the output o, which lies at `at`: where it starts in x, its first real tap, and behind its last."""

    at: Place
    o: Three
    start: Three
    first: Three
    last: Three
    g: Walk


class Link(NamedTuple):
    """x[here] is element `tap` in the window of the output o, which lies at `at`."""

    here: Place
    at: Place
    o: Three
    tap: Three
    g: Walk


# --- for variants ---


@device
def number(tap: Three, g: Walk) -> int:
    """A tap's number in the window, row-major: what winners are."""
    return (tap[0] * g.kernel[1] + tap[1]) * g.kernel[2] + tap[2]


@device
def bounds(o: Three, g: Walk, pads: int) -> tuple[Three, Three, Three]:
    """Where the window of an output starts, its first tap, and behind its last: of the real ones, with pads = 1 of
    those on padding too (not of what ceil_mode lets hang over)."""
    s0, s1, s2 = o[0] * g.stride[0] - g.begin[0], o[1] * g.stride[1] - g.begin[1], o[2] * g.stride[2] - g.begin[2]
    d0, d1 = taps(s0, g.dilation[0], g.kernel[0], -pads * g.begin[0], g.size[0] + pads * g.end[0])
    h0, h1 = taps(s1, g.dilation[1], g.kernel[1], -pads * g.begin[1], g.size[1] + pads * g.end[1])
    w0, w1 = taps(s2, g.dilation[2], g.kernel[2], -pads * g.begin[2], g.size[2] + pads * g.end[2])
    return (s0, s1, s2), (d0, h0, w0), (d1, h1, w1)


@device
def count(o: Three, g: Walk, pads: int) -> int:
    """Elements of an output's window; pads: see `bounds`."""
    _, first, last = bounds(o, g, pads)
    return (last[0] - first[0]) * (last[1] - first[1]) * (last[2] - first[2])


@device
def weight(weights: Any, o: Three, tap: Three) -> Any:
    """Of a tap in an output's window: the product of one weight per axis."""
    return weights[0, o[0], tap[0]] * weights[1, o[1], tap[1]] * weights[2, o[2], tap[2]]


@device
def element(m: Inputs, w: Window, tap: Three) -> Any:
    dilation, size = w.g.dilation, w.g.size
    row = (w.start[0] + tap[0] * dilation[0]) * size[1] + w.start[1] + tap[1] * dilation[1]
    return m.x[w.at[0], row * size[2] + w.start[2] + tap[2] * dilation[2]]


def over(step: Callable[..., Any]) -> Any:
    """Makes of step(state, v, tap, w, c) -> state a device function (state, m, w, c) -> state: the step for every real
    element v of w, one after the other."""
    step = device(step)

    @device
    def loop(state: Any, m: Inputs, w: Window, c: Any) -> Any:
        for d in range(w.first[0], w.last[0]):
            for h in range(w.first[1], w.last[1]):
                for k in range(w.first[2], w.last[2]):
                    state = step(state, element(m, w, (d, h, k)), (d, h, k), w, c)
        return state

    return loop


def peak(of: Callable[..., Any]) -> Any:
    """`over` for the state (largest `of` the elements, its number), from a given one. The first of equals stays, a NaN
    beats every number."""

    @over
    def largest(state: Any, v: Any, tap: Three, w: Window, c: Any) -> Any:
        best, won = state
        a = of(v)
        if a > best or (a != a and best == best):
            return a, number(tap, w.g)
        return best, won

    return largest


@device
def winner_spread(m: Saved, e: Link, flag: int, p: Any) -> Any:
    """dy to the element that won: for every pooling that chooses one."""
    return m.dy[e.at] if m.indices[0][e.at] == number(e.tap, e.g) else m.dy.dtype.type(0)


# --- the kernels ---


def forward_kernel(name: str, reduce: Callable[..., Any], floats_of: Any, indices_of: Any) -> Kernel:
    def forward(y: Float2, floats: floats_of, indices: indices_of, x: Float2, u: Float2, weights: Float3,
                g: WalkArg, flag: Int, p: Real) -> None:  # fmt: skip
        m = Inputs(x, u, weights)
        first, plane0 = cuda.grid(2)
        step, planes = cuda.gridsize(2)
        for i in range(first, y.shape[1], step):
            o = unravel(i, g.out)
            start, low, high = bounds(o, g, 0)
            for plane in range(plane0, y.shape[0], planes):
                value, kept, chosen = reduce(m, Window((plane, i), o, start, low, high, g), flag, p)
                y[plane, i] = value
                for k in range(len(floats)):
                    if plane < floats[k].shape[0]:
                        floats[k][plane, i] = kept[k]
                for k in range(len(indices)):
                    if plane < indices[k].shape[0]:
                        indices[k][plane, i] = chosen[k]

    return kernel(forward, f"{name}_forward")


@device
def tap_at(distance: int, dilation: int) -> int:
    """The tap that lies this far behind a window's start; -1 where dilation skips it."""
    if dilation == 1:  # no division
        return distance
    return distance // dilation if distance % dilation == 0 else -1


def backward_kernel(name: str, spread: Callable[..., Any], floats_of: Any, indices_of: Any) -> Kernel:
    def backward(dx: Float2, dy: Float2, x: Float2, y: Float2, floats: floats_of, indices: indices_of, weights: Float3,
                 g: WalkArg, flag: Int, p: Real) -> None:  # fmt: skip
        m = Saved(dy, x, y, floats, indices, weights)
        first, plane0 = cuda.grid(2)
        step, planes = cuda.gridsize(2)
        for i in range(first, dx.shape[1], step):
            d, h, w = unravel(i, g.size)
            pd, ph, pw = d + g.begin[0], h + g.begin[1], w + g.begin[2]
            d0, d1 = readers(pd, g.stride[0], g.dilation[0], g.kernel[0], g.out[0])
            h0, h1 = readers(ph, g.stride[1], g.dilation[1], g.kernel[1], g.out[1])
            w0, w1 = readers(pw, g.stride[2], g.dilation[2], g.kernel[2], g.out[2])
            for plane in range(plane0, dx.shape[0], planes):
                total = np.float64(0)
                for od in range(d0, d1):
                    td = tap_at(pd - od * g.stride[0], g.dilation[0])
                    for oh in range(h0, h1):
                        th = tap_at(ph - oh * g.stride[1], g.dilation[1])
                        for ow in range(w0, w1):
                            tw = tap_at(pw - ow * g.stride[2], g.dilation[2])
                            if td >= 0 and th >= 0 and tw >= 0:
                                at = plane, (od * g.out[1] + oh) * g.out[2] + ow
                                total += spread(m, Link((plane, i), at, (od, oh, ow), (td, th, tw), g), flag, p)
                dx[plane, i] = total

    return kernel(backward, f"{name}_backward")


# --- on the host ---


def _planes(a: Any, arg: Any, real: Any) -> Any:
    """An array as a kernel's argument of planes; without any where it is None, or unused and so without a shape. A
    list of arrays as a tuple of as many as the kernel takes."""
    if isinstance(arg, Several):
        return tuple(_planes(each, arg.of, real) for each in (*a, *(None,) * (arg.count - len(a))))
    if a is None or a.ndim < 3:
        return empty((0, 1), real if arg.kind == "float" else arg.kind)
    return view(a, a.shape[0] * a.shape[1], math.prod(a.shape[2:]))


def _weights(axes: list[np.ndarray], dtype: Any) -> Any:
    """Weights (output, tap) per axis in one array on the device; axes that lower ranks lack weigh 1."""
    if not axes:
        return empty((0, 1, 1), dtype)
    axes = [np.ones((1, 1))] * (3 - len(axes)) + axes
    packed = np.zeros((3, *np.max([a.shape for a in axes], axis=0)), dtype)
    for part, a in zip(packed, axes, strict=True):
        part[: a.shape[0], : a.shape[1]] = a
    weights = empty(packed.shape, dtype)
    copy(weights, packed)
    return weights


def _kinds(arrays: Any) -> tuple[list[Any], list[Any]]:
    """Those of floats, and those of integers."""
    return [a for a in arrays if a.dtype.kind == "f"], [a for a in arrays if a.dtype.kind != "f"]


def variant(
    name: str,
    reduce: Callable[..., Any],
    spread: Callable[..., Any],
    *,
    floats: int = 1,
    indices: int = 1,
    flag: str = "",
    p: str = "",
    weights: Callable[[Any], list[np.ndarray]] = lambda params: [],
) -> dict[str, tuple[Callable[..., None], Callable[..., Arrays]]]:
    """An op's entry in a TABLE. floats, indices: how many of each `reduce` keeps beside y. flag, p: the names of the
    parameters that its device functions get. weights: per axis, (output, tap), from its parameters."""
    kept = Annotated[Any, Several(Arg("float", 2), floats)], Annotated[Any, Several(Arg("int32", 2), indices)]
    forward_of, backward_of = forward_kernel(name, reduce, *kept), backward_kernel(name, spread, *kept)

    def launch(of: Kernel, params: Any, *maps: Any) -> None:
        """maps: the kernel's first arguments."""
        real = maps[0].dtype
        planes = [_planes(a, arg, real) for a, arg in zip(maps, of.types, strict=False)]
        numbers = int(getattr(params, flag)) if flag else 0, getattr(params, p) if p else 0
        of.plane(*planes[0].shape[::-1], *planes, _weights(weights(params), real), walk(params.window), *numbers)

    def forward(params: Any, out: Arrays, x: Any, u: Any = None) -> None:
        launch(forward_of, params, out[0], *_kinds(out[1:]), x, u)

    def backward(params: Any, needs: tuple[bool, ...], dy: Any, *saved: Any) -> Arrays:
        dx = None
        if needs[0]:
            given = dict(zip(registry[name].saved, saved, strict=True))
            x, y = given.pop("x", None), given.pop("y", None)
            dx = empty((*dy.shape[:2], *params.window.size), dy.dtype)
            launch(backward_of, params, dx, dy, x, y, *_kinds(given.values()))
        return (dx, *(None,) * (len(needs) - 1))

    return {name: (forward, backward)}
