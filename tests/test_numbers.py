"""Numbers that are not ordinary: NumPy's scalars as attributes, and extreme values in arrays. Results do not depend on
what callers ask of their own arithmetic: warnings as errors, `np.errstate(all="raise")`."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from bounds import outputs_of
from engines import HOST_BACKENDS
from hypothesis import given
from hypothesis import strategies as st
from strategies import DTYPES, HypothesisDraw, cast, examples

import cnncore as cc
from cnncore.ops.domain import Draw
from cnncore.ops.op import run
from cnncore.ops.records import registry
from cnncore.ops.roles import INDEX, RANDOM

OPS = list(registry)
EXTREMES = (0.0, -0.0, 1e-45, -1e-45, 1e-38, 1e-30, -1e-19, 1.0, -3.0, 1e19, 1e30, -1e38, 3e38, np.inf, -np.inf, np.nan)
backends = pytest.mark.parametrize("backend", HOST_BACKENDS)


class strict:
    """Every warning is an error, and NumPy raises whatever happens in floating point."""

    def __enter__(self) -> None:
        self.caught, self.state = warnings.catch_warnings(), np.errstate(all="raise")
        self.caught.__enter__()
        warnings.simplefilter("error")
        self.state.__enter__()

    def __exit__(self, *exc: Any) -> None:
        self.state.__exit__(*exc)
        self.caught.__exit__(*exc)


def everything(name: str, arrays: Any, attrs: dict[str, Any], dy: Any, backend: str) -> list[Any]:
    """Outputs and gradients."""
    y, ctx = run(registry[name], arrays, attrs, backend)
    return [*outputs_of(registry[name], y), *(ctx.backward(dy) if registry[name].backward else ())]


def gradient_like(name: str, arrays: Any, attrs: dict[str, Any], values: Any) -> Any:
    shape = next(iter(registry[name].rule(*arrays, **attrs).results.values()))[0]
    return values(shape)


def same(got: list[Any], want: list[Any]) -> None:
    for a, b in zip(got, want, strict=True):
        assert (a is None) == (b is None)
        assert a is None or np.array_equal(a, b, equal_nan=True)


# --- attributes ---


def scalars(value: Any, floats: Any, integers: Any) -> Any:
    """The attribute with NumPy's scalars in place of Python's numbers."""
    if isinstance(value, tuple):
        return tuple(scalars(v, floats, integers) for v in value)
    if isinstance(value, bool):
        return np.bool_(value)
    return floats(value) if isinstance(value, float) else integers(value) if isinstance(value, int) else value


def as_float32(value: Any) -> Any:
    """Python's number that float32 can hold."""
    return float(np.float32(value)) if isinstance(value, float) else value


@backends
@pytest.mark.parametrize("name", OPS)
@examples(6)
@given(data=st.data())
def test_numpy_scalars_are_numbers(name, backend, data):
    """Bit for bit what Python's numbers give, as an op's attributes; integers serve for floats that are whole."""
    case = registry[name].domain(HypothesisDraw(data, spread=2))
    integers = data.draw(st.sampled_from([np.int64, np.int32, np.int8, np.intp]), label="integers")
    floats = data.draw(st.sampled_from([np.float64, np.float32, np.longdouble]), label="floats")
    attrs = {a: as_float32(v) for a, v in case.attrs.items()}
    arrays = cast(registry[name], case, np.float32)
    dy = gradient_like(name, arrays, attrs, np.ones).astype(np.float32)
    with strict():
        got = everything(name, arrays, {a: scalars(v, floats, integers) for a, v in attrs.items()}, dy, backend)
        same(got, everything(name, arrays, attrs, dy, backend))


def whole_numbers(op: str) -> dict[str, Any]:
    """Float attributes of the op's domain that have a whole value."""
    attrs: dict[str, Any] = {}
    for seed in range(40):
        found = registry[op].domain(Draw(seed)).attrs
        attrs |= {a: v for a, v in found.items() if isinstance(v, float) and v.is_integer()}
    return attrs


@pytest.mark.parametrize("name", [name for name in OPS if whole_numbers(name)])
def test_integers_are_numbers(name):
    for attribute, value in whole_numbers(name).items():
        case = next(c for c in map(registry[name].domain, map(Draw, range(100))) if c.attrs.get(attribute) == value)
        for number in (int(value), np.int64(value), np.uint8(value)):
            spec = registry[name].rule(*case.arrays, **{**case.attrs, attribute: number})
            assert spec.params == registry[name].rule(*case.arrays, **case.attrs).params


@backends
def test_a_large_float32_does_not_overflow_the_check(backend):
    """np.float32 beside the largest double was an overflow of NumPy's cast."""
    x = np.ones((1, 2, 4, 4), np.float32)
    with strict():
        for name, attrs in (
            ("lrn", {"alpha": np.float32(1e-4), "beta": np.float32(0.75), "k": np.float32(2)}),
            ("lp_pool", {"kernel": np.int64(2), "p": np.float32(3)}),
            ("lp_pool", {"kernel": np.int64(2), "p": np.float16(np.inf)}),
            ("divisive_norm", {"floor": np.float32(1e-4), "sigma": np.float16(1)}),
            ("softmax", {"axis": np.int8(-1)}),
        ):
            y, _ = run(registry[name], (x,), attrs, backend)
            assert np.isfinite(y).all()


def test_what_is_no_number_is_still_refused():
    x = np.ones((1, 2, 4), np.float32)
    for bad in (np.bool_(True), True, "1", None, np.complex64(1), np.float32(np.nan), np.float32(np.inf), np.ones(1)):
        with pytest.raises(cc.CnncoreError, match="alpha"):
            cc.ops.lrn(x, alpha=bad)


# --- values ---


@backends
@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
@pytest.mark.parametrize("name", OPS)
@examples(8)
@given(data=st.data())
def test_extreme_values_neither_raise_nor_warn(name, dtype, backend, data):
    """Underflow that counts for nothing, and the Inf and NaN of the docstrings: the same results as for a caller who
    ignores all of NumPy's floating-point errors."""
    op = registry[name]
    case = op.domain(HypothesisDraw(data, spread=2))
    chosen = data.draw(st.lists(st.sampled_from(EXTREMES), min_size=1, max_size=4), label="values")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))

    def drawn(shape: tuple[int, ...]) -> np.ndarray:
        return np.array(chosen)[rng.integers(0, len(chosen), shape)].astype(dtype)

    arrays = tuple(
        a if a is None or r in (INDEX, RANDOM) else drawn(a.shape)
        for a, r in zip(cast(op, case, dtype), op.roles(case.arrays), strict=True)
    )
    dy = gradient_like(name, arrays, case.attrs, drawn)
    with np.errstate(all="ignore"):
        want = everything(name, arrays, case.attrs, dy, backend)
    with strict():
        same(everything(name, arrays, case.attrs, dy, backend), want)


def test_softmax_of_what_underflows():
    """exp(-760) is 0 in float64."""
    with strict():
        y, ctx = cc.ops.softmax(np.array([[0.0, -760.0]]), backend="numpy")
        assert y.tolist() == [[1.0, 0.0]] and ctx.backward(np.ones((1, 2)))[0].tolist() == [[0.0, 0.0]]
