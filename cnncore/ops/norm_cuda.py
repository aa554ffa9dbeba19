"""lrn and lrn_within on the device. Definition: norm.py.

Arrays are (N, C, D, H, W), and both ops are one: sums over a box along (C, D, H, W). A thread owns elements and reads
their boxes, which neighbouring threads share through the cache. Threads run along the positions of a map, and along
images and maps. Backward goes twice over the elements: what each gives to its neighbours, then what each gets.
"""

import math
from typing import Annotated, Any

import numpy as np

from ..backends.kernel import Float5, Int, Like, Real, cuda, device, empty, kernel, view
from .geometry_cuda import three, unravel

Arrays = tuple[Any, ...]
Three = tuple[int, int, int]
Four = tuple[int, int, int, int]
Reach = Annotated[Four, Like((0, 0, 0, 0))]


@device
def power(d: Any, beta: Any, quarters: int) -> Any:
    """d^beta; quarters is 4 beta where square roots alone give it, else 0."""
    if quarters == 3:
        root = math.sqrt(d)
        if root == d:  # 0, 1 or Inf
            return root
        return d / math.sqrt(root)  # 2.5 roundings; of root * sqrt(root) 3.5, and x over it may err by over 2 units
    if quarters == 2:
        return math.sqrt(d)
    return d if quarters == 4 else math.pow(d, beta)


@device
def span(at: int, before: int, after: int, count: int) -> tuple[int, int]:
    """What a box covers of an axis, as a range [first, last)."""
    return max(at - before, 0), min(at + after + 1, count)


@device
def box_sum(a: Any, n: int, c: int, at: Three, before: Four, after: Four, squared: bool) -> Any:
    """Sum of `a`, or of its squares, over the box of map c, position `at`, of image n."""
    c0, c1 = span(c, before[0], after[0], a.shape[1])
    d0, d1 = span(at[0], before[1], after[1], a.shape[2])
    h0, h1 = span(at[1], before[2], after[2], a.shape[3])
    w0, w1 = span(at[2], before[3], after[3], a.shape[4])
    total = np.float64(0)
    for i in range(c0, c1):
        for d in range(d0, d1):
            for h in range(h0, h1):
                for w in range(w0, w1):
                    v = a[n, i, d, h, w]
                    total += v * v if squared else v
    return a.dtype.type(total)


@kernel
def box_squares(y: Float5, g: Float5, x: Float5, dy: Float5, before: Reach, after: Reach,
                k: Real, alpha: Real, beta: Real, quarters: Int, backward: Int) -> None:  # fmt: skip
    """Forward: y = x / d^beta. Backward: g = dy / d^beta, and y = g x / d, what the neighbours of x get."""
    first, plane0 = cuda.grid(2)
    step, planes = cuda.gridsize(2)
    size = (x.shape[2], x.shape[3], x.shape[4])
    for o in range(first, size[0] * size[1] * size[2], step):
        at = unravel(o, size)
        for plane in range(plane0, x.shape[0] * x.shape[1], planes):
            n, c = plane // x.shape[1], plane % x.shape[1]
            divisor = k + alpha * box_sum(x, n, c, at, before, after, True)
            v = x[n, c, at[0], at[1], at[2]]
            if backward:
                direct = dy[n, c, at[0], at[1], at[2]] / power(divisor, beta, quarters)
                g[n, c, at[0], at[1], at[2]] = direct
                y[n, c, at[0], at[1], at[2]] = direct * v / divisor
            else:
                y[n, c, at[0], at[1], at[2]] = v / power(divisor, beta, quarters)


@kernel
def box_gather(dx: Float5, x: Float5, shared: Float5, before: Reach, after: Reach, factor: Real) -> None:
    """dx -= factor x (sum of `shared` over the box)."""
    first, plane0 = cuda.grid(2)
    step, planes = cuda.gridsize(2)
    size = (x.shape[2], x.shape[3], x.shape[4])
    for o in range(first, size[0] * size[1] * size[2], step):
        at = unravel(o, size)
        for plane in range(plane0, x.shape[0] * x.shape[1], planes):
            n, c = plane // x.shape[1], plane % x.shape[1]
            total = box_sum(shared, n, c, at, before, after, False)
            dx[n, c, at[0], at[1], at[2]] -= factor * x[n, c, at[0], at[1], at[2]] * total


# --- on the host ---


def _rank5(a: Any) -> Any:
    return view(a, *a.shape[:2], *three(a.shape[2:], 1))


def _launch(kernel_: Any, out: Any, *args: Any) -> None:
    kernel_.plane(out.shape[2] * out.shape[3] * out.shape[4], out.shape[0] * out.shape[1], out, *args)


def _quarters(p: Any) -> int:
    return int(4 * p.beta) if p.beta in (0.5, 0.75, 1.0) else 0


def _forward(p: Any, out: Arrays, x: Any) -> None:
    y, x = _rank5(out[0]), _rank5(x)
    _launch(box_squares, y, y, x, x, p.before, p.after, p.k, p.alpha, p.beta, _quarters(p), 0)


def _backward(p: Any, needs: tuple[bool, ...], dy: Any, x: Any) -> Arrays:
    if not needs[0]:
        return (None,)
    result, shared = empty(dy.shape, dy.dtype), empty(dy.shape, dy.dtype)
    dx, shared, x = _rank5(result), _rank5(shared), _rank5(x)
    _launch(box_squares, shared, dx, x, _rank5(dy), p.before, p.after, p.k, p.alpha, p.beta, _quarters(p), 1)
    _launch(box_gather, dx, x, shared, p.after, p.before, 2 * p.alpha * p.beta)
    return (result,)


TABLE = {"lrn": (_forward, _backward), "lrn_within": (_forward, _backward)}
