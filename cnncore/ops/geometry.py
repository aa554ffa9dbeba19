"""Windows: how kernel, stride, padding and dilation turn an input size into an output size.

One rule for convolution and pooling, at rank 1, 2 and 3. Along one axis, with d the dilation,

    extent = d (kernel - 1) + 1
    out    = floor((in + begin + end - extent) / stride) + 1

and `ceil_mode` rounds up instead, except that a window may not start in the end padding (ONNX opset 22, PyTorch).
All sizes are Python integers until they were checked, so nothing wraps.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import CnncoreError, ShapeError
from .scalars import finite

LIMIT = 2**48  # elements of an array: more than any machine holds, and far from where 64-bit byte offsets wrap
MOST = 2**31 - 1  # of a kernel, stride, padding or dilation: the product of two still fits 64 bits

_AXIS_FILL = {"kernel": 1, "stride": 1, "dilation": 1, "begin": 0, "end": 0, "size": 1, "out": 1}  # of an axis too few


@dataclass(frozen=True)
class Window:
    """A resolved geometry; every field has one integer per spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    size: tuple[int, ...]
    out: tuple[int, ...]

    def c_struct(self) -> dict[str, tuple[int, ...]]:
        """The fields of cc_window, filled up to three axes in front."""
        missing = 3 - len(self.size)
        return {name: (fill,) * missing + getattr(self, name) for name, fill in _AXIS_FILL.items()}

    @property
    def taps(self) -> int:
        """Elements of one window, padding included."""
        return math.prod(self.kernel)

    def offsets(self) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """For each tap in row-major order, its number and where in the padded input its values lie for all windows.

        `padded[..., *slices]` then has the output's spatial shape: the one window walk of the NumPy definitions.
        """
        for number, tap in enumerate(np.ndindex(*self.kernel)):
            yield (
                number,
                tuple(
                    slice(t * d, t * d + s * (o - 1) + 1, s)
                    for t, d, s, o in zip(tap, self.dilation, self.stride, self.out, strict=True)
                ),
            )

    @functools.cached_property
    def padded(self) -> tuple[int, ...]:
        """The padded size, including what `ceil_mode` lets a last window hang over."""
        return tuple(
            max(n + b + e, s * (o - 1) + d * (k - 1) + 1)
            for n, b, e, s, o, d, k in zip(
                self.size, self.begin, self.end, self.stride, self.out, self.dilation, self.kernel, strict=True
            )
        )

    def pad(self, x: np.ndarray, fill: float = 0) -> np.ndarray:
        """x (..., *size) in an array of `fill` of shape (..., *padded)."""
        if self.padded == self.size:
            return x
        out = np.full(x.shape[: -len(self.size)] + self.padded, fill, x.dtype)
        out[self.inside] = x
        return out

    @property
    def inside(self) -> tuple[Any, ...]:
        """Index of the real elements in a padded array."""
        return (..., *(slice(b, b + n) for b, n in zip(self.begin, self.size, strict=True)))


def integer(op: str, name: str, value: Any, least: int) -> int:
    """`value` as an int in [least, MOST], or a ShapeError that names it."""
    if type(value) is int and least <= value <= MOST:
        return value
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise ShapeError(f"{op}: {name} must be an integer, got {value!r}")
    if number < least:
        raise ShapeError(f"{op}: {name} must be at least {least}, got {number}")
    if number > MOST:
        raise ShapeError(f"{op}: {name} must be at most {MOST}, got {number}")
    return number


def flag(op: str, name: str, value: Any) -> bool:
    """`value` as a bool, or a CnncoreError that names it: a string or an array would silently count as True."""
    if not isinstance(value, bool | np.bool_):
        raise CnncoreError(f"{op}: {name} must be True or False, got {value!r}")
    return bool(value)


def at_least(op: str, low: float, below: float = math.inf, **values: Any) -> None:
    """Raise a CnncoreError that names the first of `values` that is no finite number in [low, below)."""
    for name, value in values.items():
        finite(op, name, value, low, below)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def per_axis(op: str, name: str, value: Any, rank: int, least: int) -> tuple[int, ...]:
    """An int, or one per spatial axis, as one per axis; each at least `least`."""
    if type(value) is int and least <= value <= MOST:
        return (value,) * rank
    if type(value) is tuple and len(value) == rank and all(type(v) is int and least <= v <= MOST for v in value):
        return value
    if _is_list(value):
        if len(value) != rank:
            raise ShapeError(f"{op}: {name} must have one integer per spatial axis ({rank}), got {value!r}")
        return tuple(integer(op, name, v, least) for v in value)
    return (integer(op, name, value, least),) * rank


def _padding(op: str, padding: Any, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(begin, end) from an int, one int per axis, or a (begin, end) pair per axis."""
    if type(padding) is not int and _is_list(padding) and len(padding) == rank:
        pairs = [p if _is_list(p) and len(p) == 2 else (p, p) for p in padding]
        return (
            tuple(integer(op, "padding", p[0], 0) for p in pairs),
            tuple(integer(op, "padding", p[1], 0) for p in pairs),
        )
    same = per_axis(op, "padding", padding, rank, 0)
    return same, same


def resolve(
    op: str,
    size: Sequence[int],
    kernel: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Window:
    """The checked Window of an op on an input of spatial size `size`.

    Raises ShapeError for anything that is not an integer, a kernel or stride or dilation below 1, a negative padding,
    and a kernel whose extent is larger than the padded input.
    """
    rank = len(size)
    if type(ceil_mode) is not bool:
        ceil_mode = flag(op, "ceil_mode", ceil_mode)
    k = per_axis(op, "kernel", kernel, rank, 1)
    s = per_axis(op, "stride", stride, rank, 1)
    d = per_axis(op, "dilation", dilation, rank, 1)
    return _window(op, tuple(size), k, s, d, *_padding(op, padding, rank), ceil_mode)


Ints = tuple[int, ...]


@functools.lru_cache(1024)  # a network asks for the same few at every step
def _window(op: str, size: Ints, k: Ints, s: Ints, d: Ints, begin: Ints, end: Ints, ceil_mode: bool) -> Window:
    out = []
    for axis in range(len(size)):
        extent = d[axis] * (k[axis] - 1) + 1
        padded = size[axis] + begin[axis] + end[axis]
        if extent > padded:
            raise ShapeError(
                f"{op}: kernel {k[axis]} with dilation {d[axis]} spans {extent} elements along spatial axis {axis}, "
                f"the padded input has {padded}"
            )
        whole, rest = divmod(padded - extent, s[axis])
        starts_inside = (whole + 1) * s[axis] < size[axis] + begin[axis]
        out.append(whole + 1 + (1 if ceil_mode and rest and starts_inside else 0))
    window = Window(k, s, d, begin, end, size, tuple(out))
    elements(op, window.padded)
    return window


@functools.lru_cache(1024)
def reject_padding_only(op: str, w: Window) -> None:
    """A pooling window without one real element has no value: raise ShapeError rather than give NaN or -inf."""
    for axis, (k, s, d, b, n, o) in enumerate(zip(w.kernel, w.stride, w.dilation, w.begin, w.size, w.out, strict=True)):
        # A window that starts inside the input holds its first element. One that starts before it, and reaches it,
        # holds element (start mod d) if there is one; of more than n different residues, one is n or larger, so that
        # n + 1 windows decide.
        before = range(min(-(-b // s), o, n + 1))
        alone = b > d * (k - 1) or s * (o - 1) - b >= n or any((i * s - b) % d >= n for i in before)
        if alone:
            raise ShapeError(
                f"{op}: padding {(b, w.end[axis])} along spatial axis {axis} leaves a window of kernel {k}, "
                f"dilation {d} with padding alone"
            )


def elements(op: str, shape: Sequence[int]) -> int:
    """The product of a shape, or a ShapeError where 64-bit offsets could not count it."""
    if math.prod(filter(None, shape)) > LIMIT:  # a zero would hide what NumPy multiplies all the same
        raise ShapeError(f"{op}: a result of shape {tuple(shape)} has too many elements")
    return math.prod(shape)
