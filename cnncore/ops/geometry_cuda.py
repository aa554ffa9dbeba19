"""The window walk on the device: rank 1 to 3 as rank 3, with leading axes of size 1.

Along one axis, output o reads positions  start + dilation t,  start = stride o - begin, for the taps t < kernel.
Forward kernels ask which taps of an output are real (`taps`), backward kernels which outputs read a position
(`readers`): every thread gathers what belongs to its own result, so nothing needs atomics and sums have one order.
"""

from typing import Annotated, Any, NamedTuple

from ..backends.kernel import Like, device
from .geometry import Window


class Walk(NamedTuple):
    """A geometry.Window of rank 3."""

    kernel: tuple[int, int, int]
    stride: tuple[int, int, int]
    dilation: tuple[int, int, int]
    begin: tuple[int, int, int]
    end: tuple[int, int, int]
    size: tuple[int, int, int]
    out: tuple[int, int, int]


def three(values: Any, fill: int) -> tuple[int, int, int]:
    """Values per spatial axis, with `fill` for the axes that lower ranks lack."""
    a, b, c = (fill,) * (3 - len(values)) + tuple(int(v) for v in values)
    return a, b, c


def walk(w: Window) -> Walk:
    return Walk(
        three(w.kernel, 1), three(w.stride, 1), three(w.dilation, 1), three(w.begin, 0), three(w.end, 0),
        three(w.size, 1), three(w.out, 1),
    )  # fmt: skip


POINT = walk(Window((1,), (1,), (1,), (0,), (0,), (1,), (1,)))  # a window of one element on an input of one
WalkArg = Annotated[Walk, Like(POINT)]


@device
def unravel(index: int, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Row-major coordinates of a flat index."""
    plane = shape[1] * shape[2]
    rest = index % plane
    return index // plane, rest // shape[2], rest % shape[2]


@device
def taps(start: int, dilation: int, kernel: int, low: int, high: int) -> tuple[int, int]:
    """The taps t with low <= start + dilation t < high, as a range [first, last). Of a window inside, no division."""
    first = 0 if start >= low else (low - start + dilation - 1) // dilation
    last = kernel if start + dilation * (kernel - 1) < high else (high - start + dilation - 1) // dilation
    return first, max(first, last)


@device
def readers(position: int, stride: int, dilation: int, kernel: int, out: int) -> tuple[int, int]:
    """The outputs whose window spans a position of the padded input, as a range [first, last)."""
    before = position - dilation * (kernel - 1)
    first = 0 if before <= 0 else (before + stride - 1) // stride
    return first, min(out, position // stride + 1)
