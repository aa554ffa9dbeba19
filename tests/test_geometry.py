"""Window geometry against brute force, and against the rules of ONNX and PyTorch as their documents have them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from oracle import REAL, Axis, taps
from strategies import examples

from cnncore.errors import ShapeError
from cnncore.ops import geometry

AXIS = st.builds(
    Axis,
    n=st.integers(0, 12),
    k=st.integers(1, 7),
    s=st.integers(1, 9),
    b=st.integers(0, 8),
    e=st.integers(0, 8),
    d=st.integers(1, 6),
    ceil_mode=st.booleans(),
)


def resolve(*axes: Axis) -> geometry.Window:
    return geometry.resolve(
        "op",
        [a.n for a in axes],
        [a.k for a in axes],
        [a.s for a in axes],
        [(a.b, a.e) for a in axes],
        [a.d for a in axes],
        axes[0].ceil_mode,
    )


@examples(400)
@given(axis=AXIS)
@example(axis=Axis(n=4, k=2, s=2, b=0, e=1, d=1, ceil_mode=True))  # the extra window would start in the padding
@example(axis=Axis(n=5, k=2, s=2, b=0, e=0, d=1, ceil_mode=True))
def test_output_size_is_the_number_of_windows(axis):
    if axis.d * (axis.k - 1) + 1 > axis.b + axis.n + axis.e:
        with pytest.raises(ShapeError, match="op: kernel"):
            resolve(axis)
    else:
        assert resolve(axis).out == (axis.out,)


@examples(300)
@given(axis=AXIS)
def test_output_size_as_onnx_and_pytorch_write_it(axis):
    """ONNX opset 22: floor or ceil of a quotient; PyTorch: one less where the last window starts in the end padding.
    (Both agree with us wherever no window is padding alone, which pooling rejects.)"""
    extent = axis.d * (axis.k - 1) + 1
    assume(extent <= axis.b + axis.n + axis.e and axis.e < extent)
    steps = (axis.n + axis.b + axis.e - extent) / axis.s
    out = (math.ceil(steps) if axis.ceil_mode else math.floor(steps)) + 1
    if axis.ceil_mode and (out - 1) * axis.s >= axis.n + axis.b:
        out -= 1
    assert resolve(axis).out == (out,)


@examples(400)
@given(axis=AXIS)
@example(axis=Axis(n=1, k=3, s=1, b=2, e=2, d=2, ceil_mode=False))  # dilation steps over the only element
def test_padding_only_windows_are_found(axis):
    assume(axis.d * (axis.k - 1) + 1 <= axis.b + axis.n + axis.e)
    window = resolve(axis)
    alone = any(all(kind != REAL for _, _, kind in taps([axis], (o,))) for o in range(axis.out))
    if alone:
        with pytest.raises(ShapeError, match=r"op: padding .* padding alone"):
            geometry.reject_padding_only("op", window)
    else:
        geometry.reject_padding_only("op", window)


@examples(100)
@given(axes=st.lists(AXIS, min_size=2, max_size=3))
def test_several_axes_do_not_mix(axes):
    axes = [a._replace(ceil_mode=axes[0].ceil_mode) for a in axes]
    assume(all(a.d * (a.k - 1) + 1 <= a.b + a.n + a.e for a in axes))
    window = resolve(*axes)
    assert window.out == tuple(a.out for a in axes)
    assert window.taps == math.prod(a.k for a in axes)


@examples(100)
@given(axes=st.lists(AXIS, min_size=1, max_size=2), seed=st.integers(0, 9))
def test_the_walk_visits_what_brute_force_visits(axes, seed):
    """offsets() over pad(x) gives every window's values in row-major order, `fill` where nothing is real."""
    axes = [a._replace(ceil_mode=axes[0].ceil_mode) for a in axes]
    assume(all(a.d * (a.k - 1) + 1 <= a.b + a.n + a.e for a in axes))
    window = resolve(*axes)
    x = np.random.default_rng(seed).standard_normal(window.size)
    padded = window.pad(x, -7.0)
    assert padded.shape == window.padded and np.array_equal(padded[window.inside], x)
    for number, at in window.offsets():
        values = padded[at]
        assert values.shape == window.out
        for o in np.ndindex(*window.out):
            _, place, kind = list(taps(axes, o))[number]
            assert values[o] == (x[place] if kind == REAL else -7.0)


@pytest.mark.parametrize(
    ("padding", "begin", "end"),
    [
        (1, (1, 1), (1, 1)),
        ((1, 2), (1, 2), (1, 2)),
        ([1, 2], (1, 2), (1, 2)),
        (((1, 2), (3, 4)), (1, 3), (2, 4)),
        (((1, 2), 3), (1, 3), (2, 3)),
        (np.array([1, 2]), (1, 2), (1, 2)),
        (np.int64(2), (2, 2), (2, 2)),
        (np.array(2), (2, 2), (2, 2)),
    ],
)
def test_forms_of_padding(padding, begin, end):
    window = geometry.resolve("op", (9, 9), 2, 1, padding)
    assert (window.begin, window.end) == (begin, end)


@pytest.mark.parametrize("value", [3, (3, 3), [3, 3], np.array([3, 3]), np.int32(3), np.array(3)])
def test_forms_of_kernel(value):
    assert geometry.resolve("op", (9, 9), value).kernel == (3, 3)


HUGE = [2**31, 2**32, 2**62, 2**63, 2**64, 10**30]


@pytest.mark.parametrize("name", ["kernel", "stride", "padding", "dilation"])
@pytest.mark.parametrize("value", HUGE)
def test_numbers_that_kernels_cannot_hold_are_refused(name, value):
    """Below 2^31, products of two still fit the 64-bit arithmetic of the kernels."""
    attrs = {"kernel": 2, "stride": 1, "padding": 0, "dilation": 1, name: value}
    with pytest.raises(ShapeError, match=f"op: {name} must be at most {2**31 - 1}"):
        geometry.resolve("op", (5,), *attrs.values())


def test_the_largest_numbers_are_exact():
    most = 2**31 - 1
    assert geometry.resolve("op", (5,), 5, most).out == (1,)
    assert geometry.resolve("op", (2**40,), 1, most, 0, most).out == (-(-(2**40) // most),)
    assert geometry.resolve("op", (5,), 1, 1, most).out == (5 + 2 * most,)


def test_padding_only_answers_fast_at_any_size():
    """No loop over windows: these have 2^31 of them."""
    most = 2**31 - 1
    geometry.reject_padding_only("op", geometry.resolve("op", (1,), most, 1, most - 1))
    geometry.reject_padding_only("op", geometry.resolve("op", (2**40,), 2, 1, 1))
    with pytest.raises(ShapeError, match="padding alone"):
        geometry.reject_padding_only("op", geometry.resolve("op", (1,), 2, 1, most, most))


@pytest.mark.parametrize("shape", [(2**62,), (2**31, 2**31), (2**20, 2**20, 2**20), (0, 2**62), (2**62, 0)])
def test_too_many_elements(shape):
    """Also where a zero hides the rest of the product: NumPy and the kernels still multiply the others."""
    with pytest.raises(ShapeError, match=r"op: .*too many elements"):
        geometry.elements("op", shape)


def test_elements_counts():
    assert geometry.elements("op", (3, 2**31)) == 3 * 2**31
    assert geometry.elements("op", ()) == 1
    assert geometry.elements("op", (0, 5)) == 0
