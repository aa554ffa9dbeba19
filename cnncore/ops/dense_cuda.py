"""linear, softmax and softmax_cross_entropy on the device. Definition: dense.py.

linear is a convolution over one position: the tiled product of conv_cuda.py.
softmax: x is (before its axis, C, behind it); a thread owns one softmax and walks its C values thrice (maximum, sum,
quotient). Neighbouring threads own neighbouring positions behind the axis; where there is only one, each reads its own
row, through the cache. The loss has a thread per row in the same way, then one block adds the rows in a fixed order.
Sums are float64, so that those of many terms keep their digits.
"""

import math
from typing import Any

import numpy as np

from ..backends.kernel import THREADS, Float1, Float2, Float3, Long1, Real, cuda, empty, kernel, view
from .conv_cuda import convolve, gradients, sum_maps
from .geometry_cuda import POINT

Arrays = tuple[Any, ...]


@kernel
def softmax_forward(y: Float3, x: Float3) -> None:
    position, image0 = cuda.grid(2)
    step, images = cuda.gridsize(2)
    for n in range(image0, x.shape[0], images):
        for s in range(position, x.shape[2], step):
            most = x[n, 0, s]
            for c in range(1, x.shape[1]):
                v = x[n, c, s]
                if v > most or v != v:  # v != v: NaN is the largest
                    most = v
            total = np.float64(0)
            for c in range(x.shape[1]):
                e = math.exp(x[n, c, s] - most)
                y[n, c, s] = e
                total += e
            below = x.dtype.type(total)
            for c in range(x.shape[1]):
                y[n, c, s] = y[n, c, s] / below


@kernel
def softmax_backward(dx: Float3, dy: Float3, y: Float3) -> None:
    position, image0 = cuda.grid(2)
    step, images = cuda.gridsize(2)
    for n in range(image0, y.shape[0], images):
        for s in range(position, y.shape[2], step):
            total = np.float64(0)
            for c in range(y.shape[1]):
                total += dy[n, c, s] * y[n, c, s]
            less = y.dtype.type(total)
            for c in range(y.shape[1]):
                dx[n, c, s] = y[n, c, s] * (dy[n, c, s] - less)


@kernel
def row_losses(losses: Float1, probabilities: Float2, logits: Float2, labels: Long1) -> None:
    for n in range(cuda.grid(1), logits.shape[0], cuda.gridsize(1)):
        most = logits[n, 0]
        for k in range(1, logits.shape[1]):
            v = logits[n, k]
            if v > most or v != v:
                most = v
        total = np.float64(0)
        for k in range(logits.shape[1]):
            e = math.exp(logits[n, k] - most)
            probabilities[n, k] = e
            total += e
        below = logits.dtype.type(total)
        for k in range(logits.shape[1]):
            probabilities[n, k] = probabilities[n, k] / below
        losses[n] = math.log(below) - (logits[n, labels[n]] - most)


@kernel
def cross_entropy_backward(dlogits: Float2, dy: Float1, probabilities: Float2, labels: Long1, scale: Real) -> None:
    column, row0 = cuda.grid(2)
    step, rows = cuda.gridsize(2)
    for n in range(row0, dlogits.shape[0], rows):
        for k in range(column, dlogits.shape[1], step):
            hit = dlogits.dtype.type(1 if labels[n] == k else 0)
            dlogits[n, k] = (probabilities[n, k] - hit) * (dy[0] * scale)


# --- on the host ---


def _linear_forward(p: Any, out: Arrays, x: Any, w: Any, b: Any) -> None:
    convolve(out[0], x, w, b, POINT, 1)


def _linear_backward(p: Any, needs: tuple[bool, ...], dy: Any, x: Any, w: Any) -> Arrays:
    return gradients(POINT, 1, needs, dy, x, w)


def _rank3(a: Any, place: int) -> Any:
    """What lies before an axis, along it and behind it."""
    return view(a, math.prod(a.shape[:place]), a.shape[place], math.prod(a.shape[place + 1 :]))


def _softmax_forward(p: Any, out: Arrays, x: Any) -> None:
    y, x = _rank3(out[0], p.place), _rank3(x, p.place)
    softmax_forward.plane(x.shape[2], x.shape[0], y, x)


def _softmax_backward(p: Any, needs: tuple[bool, ...], dy: Any, y: Any) -> Arrays:
    if not needs[0]:
        return (None,)
    dx = empty(dy.shape, dy.dtype)
    y = _rank3(y, p.place)
    softmax_backward.plane(y.shape[2], y.shape[0], _rank3(dx, p.place), _rank3(dy, p.place), y)
    return (dx,)


def _int64(labels: Any) -> Any:
    """Kernels are compiled for int64 labels; others take the way over the host."""
    return labels if labels.dtype == np.int64 else cuda.to_device(labels.copy_to_host().astype(np.int64))


def _loss_forward(p: Any, out: Arrays, logits: Any, labels: Any) -> None:
    y, probabilities = out
    n = logits.shape[0]
    losses = empty((n,), logits.dtype)
    row_losses.over(n, losses, probabilities, logits, _int64(labels))
    sum_maps.blocks(1, THREADS, view(y, 1), view(losses, 1, 1, n), p.scale)


def _loss_backward(p: Any, needs: tuple[bool, ...], dy: Any, probabilities: Any, labels: Any) -> Arrays:
    if not needs[0]:
        return None, None
    dlogits = empty(probabilities.shape, dy.dtype)
    n, k = probabilities.shape
    cross_entropy_backward.plane(k, n, dlogits, view(dy, 1), probabilities, _int64(labels), p.scale)
    return dlogits, None


TABLE = {
    "linear": (_linear_forward, _linear_backward),
    "softmax": (_softmax_forward, _softmax_backward),
    "softmax_cross_entropy": (_loss_forward, _loss_backward),
}
