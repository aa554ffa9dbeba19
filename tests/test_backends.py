"""Every op on every engine (each instruction set of C, and CUDA) against the definition, forward and backward.

Bounds are bounds.py's, which follow from rounding. The C kernels' results and scratch are full of NaN beforehand.
"""

from __future__ import annotations

import numpy as np
import pytest
from bounds import Problem, answer, check, outputs_of
from engines import ENGINES, NATIVE, Engine, at_once, to_host
from hypothesis import assume, given
from hypothesis import strategies as st
from oracle import REAL, axes, outputs, taps
from strategies import DTYPES, LAYOUTS, HypothesisDraw, cast, channels_last, edge_case, examples, problem

from cnncore.backends import native
from cnncore.ops.domain import Draw
from cnncore.ops.op import run
from cnncore.ops.records import registry
from cnncore.ops.roles import INDEX, MAP, RANDOM

OPS = list(registry)
WINDOWED = ["conv", "max_pool", "avg_pool"]
engines = pytest.mark.parametrize("engine", ENGINES, ids=str)
hosts = pytest.mark.parametrize("engine", [*NATIVE, Engine("numpy")], ids=str)  # CUDA's `out` is in test_cuda.py
natives = pytest.mark.parametrize("engine", NATIVE, ids=str)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
ops = pytest.mark.parametrize("name", OPS)


def compute(p: Problem, engine, needs=None, out=None):
    """(outputs, gradients) of a problem on an engine, on the host."""
    with engine.running() as backend:
        y, ctx = run(p.op, p.arrays, p.attrs, backend, out)
        assert ctx.backend == backend
        gradients = ctx.backward(p.dy, needs=needs) if p.dy is not None else ()
        return to_host(outputs_of(p.op, y)), to_host(gradients)


def compare(p: Problem, got, want=None) -> None:
    want = want or answer(p)
    for i, result in enumerate(got[0]):
        assert result.dtype == p.dtype
        check(result, want.outputs[i], want.output_bounds[i], f"{p.op.name} output {i}")
    if p.dy is not None:
        for name, gradient, exact, bound in zip(
            p.op.names(p.arrays), got[1], want.gradients, want.gradient_bounds, strict=True
        ):
            assert gradient is None or gradient.dtype == p.dtype
            check(gradient, exact, bound, f"{p.op.name} gradient of {name}")


def copies(arrays):
    return [None if a is None else np.array(a) for a in arrays]


def fixed(name, dtype, seed=0, edge=False, **changes) -> Problem:
    """One problem from a seed; with `edge`, not a small one."""
    op = registry[name]
    case = op.domain(Draw(seed))
    arrays = cast(op, case, dtype)
    if edge:
        arrays = LARGE.get(name, lambda rng: arrays)(np.random.default_rng(seed))
        arrays = tuple(a.astype(dtype) if a is not None and a.dtype.kind == "f" else a for a in arrays)
    attrs = {**(LARGE_ATTRS.get(name, {}) if edge and name in LARGE else case.attrs), **changes}
    if op.backward is None:
        return Problem(op, arrays, attrs, dtype)
    y, _ = run(op, arrays, attrs, "numpy")
    return Problem(op, arrays, attrs, dtype, np.asarray(Draw(seed).normal(*y.shape)).astype(dtype))


# Problems that are large enough to be cut into pieces for several threads.
LARGE = {
    "conv": lambda r: (r.standard_normal((3, 33, 13, 15)), r.standard_normal((35, 33, 3, 3)), r.standard_normal(35)),
    "conv_relu": lambda r: LARGE["conv"](r),
    "max_pool": lambda r: (r.standard_normal((3, 33, 30, 31)),),
    "relu_max_pool": lambda r: LARGE["max_pool"](r),
    "avg_pool": lambda r: (r.standard_normal((3, 33, 30, 31)),),
    "lp_unit": lambda r: (r.standard_normal((3, 36, 30, 31)), r.standard_normal(12), r.standard_normal(36) / 9),
    "maxout": lambda r: (r.standard_normal((3, 36, 30, 31)),),
    "linear": lambda r: (r.standard_normal((65, 130)), r.standard_normal((67, 130)), r.standard_normal(67)),
    "softmax": lambda r: (r.standard_normal((9, 65, 17, 13)),),
    "softmax_cross_entropy": lambda r: (r.standard_normal((5001, 11)), r.integers(0, 11, 5001)),
    "subtractive_norm": lambda r: (r.standard_normal((3, 33, 21, 23)),),
    "divisive_norm": lambda r: (r.standard_normal((3, 33, 21, 23)),),
    "lrn": lambda r: (r.standard_normal((3, 33, 41, 43)),),
    "lrn_within": lambda r: (r.standard_normal((3, 33, 21, 23)),),
    "relu": lambda r: (r.standard_normal((3, 33, 41, 43)),),
    "sigmoid": lambda r: (r.standard_normal((3, 33, 41, 43)),),
    "tanh": lambda r: (r.standard_normal((3, 33, 41, 43)),),
    "dropout": lambda r: (r.standard_normal((3, 33, 41, 43)), r.random((3, 33, 41, 43))),
    "add": lambda r: tuple(r.standard_normal((3, 33, 41, 43)) for _ in range(3)),
    "concat": lambda r: tuple(r.standard_normal((3, c, 41, 43)) for c in (7, 33, 1)),
    "slice": lambda r: (r.standard_normal((3, 41, 41, 43)),),
    "sgd_step": lambda r: tuple(r.standard_normal(100_003) for _ in range(3)),
    "adam_step": lambda r: (*(r.standard_normal(100_003) for _ in range(3)), r.random(100_003)),
}
POOLING = {"kernel": 3, "stride": 2, "padding": 1}
LARGE_ATTRS = {
    "conv": {"padding": 1},
    "conv_relu": {"padding": 1},
    "max_pool": POOLING,
    "relu_max_pool": POOLING,
    "avg_pool": POOLING,
    "lrn": {"alpha": 0.1},
    "lrn_within": {"kernel": 5, "alpha": 0.1},
    "maxout": {"pieces": 3, **POOLING},
    "lp_unit": {"pieces": 3, **POOLING},
    "dropout": {"p": 0.3},
    "slice": {"start": 7, "stop": 40},
    "sgd_step": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "adam_step": {"lr": 0.1, "step": 3, "weight_decay": 0.01},
}


# --- agreement with the definition ---


@dtypes
@ops
@engines
@examples(12)
@given(data=st.data())
def test_agrees_with_the_definition(engine, name, dtype, data):
    """The op's own domain, in any layouts; any subset of gradients; inputs stay as they are."""
    op = registry[name]
    case = op.domain(HypothesisDraw(data, spread=2 if engine.backend == "cuda" else None))
    if engine.backend == "cuda":  # the simulator takes 0.15 ms a thread
        assume(op.flops(op.rule(*case.arrays, **case.attrs), case.arrays)[0] < 2000)
    p = problem(data, op, dtype, case)
    needs = None
    if op.backward is not None:
        needs = data.draw(st.sets(st.sampled_from(op.names(p.arrays))), label="needs")
    before = copies([*p.arrays, p.dy])
    outputs_, gradients = compute(p, engine, needs)
    for a, b in zip([*p.arrays, p.dy], before, strict=True):
        assert a is None or np.array_equal(a, b), "an input was written to"
    want = answer(p)
    for i, got in enumerate(outputs_):
        assert got.dtype == dtype
        check(got, want.outputs[i], want.output_bounds[i], f"{name} output {i}")
    for argument, got, exact, bound in zip(
        op.names(p.arrays), gradients, want.gradients, want.gradient_bounds, strict=bool(gradients)
    ):
        assert got is None or got.dtype == dtype
        check(got, exact if argument in needs else None, bound, f"{name} gradient of {argument}")


@dtypes
@ops
@natives
@examples(12)
@given(data=st.data())
def test_agrees_around_the_edges_of_tiles(engine, name, dtype, data):
    """Channels, pixels and lengths below, at and above the widths of vectors and tiles."""
    op = registry[name]
    p = problem(data, op, dtype, edge_case(HypothesisDraw(data), op))
    compare(p, compute(p, engine))


@dtypes
@pytest.mark.parametrize("name", [name for name in OPS if name.startswith("global_")])
@natives
def test_global_pools_of_more_maps_than_any_group_of_vectors(engine, name, dtype):
    """Long windows are gone through with many vectors at once, then fewer, then one, then part of one; a lane that is
    all zero, or whose powers vanish, keeps its neighbours as they are."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, 16 * (12 + 4 + 1) + 5, 7, 5)).astype(dtype)
    x[:, 3], x[:, 20:200:9] = 0, x[:, 20:200:9] * dtype(1e-30)
    op = registry[name]
    arrays = (x, rng.random((2, x.shape[1], 1, 1)).astype(dtype)) if "stochastic" in name else (x,)
    dy = rng.standard_normal((2, x.shape[1], 1, 1)).astype(dtype)
    for layout in (np.ascontiguousarray, channels_last):
        p = Problem(op, tuple(map(layout, arrays)), {}, dtype, dy)
        compare(p, compute(p, engine))


@dtypes
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@natives
def test_convolution_at_every_number_of_channels(engine, dtype, kernel):
    """Every remainder of every tile: all channel counts up to 33 on either side, widths around 6 and 12."""
    rng = np.random.default_rng(kernel)
    for c in (*range(1 + kernel % 2, 34, 2), 48, 65):
        k, width, height = 34 - c if c < 34 else c - 1, 1 + c % 14, 1 + c % 4
        x = rng.standard_normal((1, c, height, width)).astype(dtype)
        w = rng.standard_normal((k, c, kernel, kernel)).astype(dtype)
        attrs = {"padding": kernel // 2, "stride": 1 + c % 2}
        if kernel > min(height, width) + 2 * (kernel // 2):
            continue
        y, _ = run(registry["conv"], (x, w), attrs, "numpy")
        p = Problem(registry["conv"], (x, w, None), attrs, dtype, rng.standard_normal(y.shape).astype(dtype))
        want = answer(p)
        compare(p, compute(p, engine), want)
        last = p._replace(arrays=(channels_last(x), w, None), dy=channels_last(p.dy))
        compare(last, compute(last, engine), want)


@dtypes
@ops
@engines
def test_an_empty_batch(engine, name, dtype):
    """N = 0: empty results, zero gradients for parameters."""
    op = registry[name]
    case = op.domain(Draw(11))
    roles = op.roles(case.arrays)
    arrays = tuple(
        a[:0] if a is not None and (r in (MAP, INDEX, RANDOM) or op.backward is None) else a
        for a, r in zip(cast(op, case, dtype), roles, strict=True)
    )
    attrs = {**case.attrs, "axis": -1} if "axis" in case.attrs and arrays[0].ndim > 1 else dict(case.attrs)
    p = Problem(op, arrays, attrs, dtype)
    if op.backward is not None:
        y, _ = run(op, arrays, attrs, "numpy")
        p = p._replace(dy=np.ones_like(y))
    outputs_, gradients = compute(p, engine)
    for got in outputs_:
        assert got.size == 0 or (name == "softmax_cross_entropy" and got == 0)
    for a, got, role in zip(arrays, gradients, roles, strict=bool(gradients)):
        assert got is None or (got.shape == a.shape and not got.any()), role


# --- where the bits are promised ---


@dtypes
@pytest.mark.parametrize("name", ["relu", "max_pool", "maxout", "dropout", "add", "concat", "slice"])
@engines
@examples(6)
@given(data=st.data())
def test_ops_that_only_choose_move_or_add_in_order_are_exact(engine, name, dtype, data):
    """Equal to the definition in the same dtype to the bit, in every layout: add runs from the left, as documented."""
    op = registry[name]
    p = problem(data, op, dtype, op.domain(HypothesisDraw(data, spread=1)))
    y, _ = run(op, p.arrays, p.attrs, "numpy")
    assert np.array_equal(compute(p, engine)[0][0], y)


@ops
@natives
def test_layouts_do_not_change_the_bits(engine, name):
    """A layout that is copied on entry gives the bits that the contiguous call gives."""
    p = fixed(name, np.float32, seed=2)
    want = compute(p, engine)
    for layout in ("sliced", "negative", "read_only", "unaligned", "padded_rows"):
        moved = p._replace(
            arrays=tuple(a if a is None or not a.ndim else LAYOUTS[layout](a) for a in p.arrays),
            dy=p.dy if p.dy is None or not p.dy.ndim else LAYOUTS[layout](p.dy),
        )
        for got, exact in zip(compute(moved, engine), want, strict=True):
            for a, b in zip(got, exact, strict=True):
                assert (a is None and b is None) or np.array_equal(a, b), layout


@dtypes
@ops
@natives
def test_the_number_of_threads_does_not_change_the_bits(engine, name, dtype):

    p = fixed(name, dtype, edge=True)
    last = p._replace(
        arrays=tuple(channels_last(a) if r == MAP else a for a, r in zip(p.arrays, p.op.roles(p.arrays), strict=True))
    )
    for version in (p, last):
        results = []  # of each number of threads
        for threads in (1, 2, 3):
            with native.use_threads(threads):
                outputs_, gradients = compute(version, engine)
            results.append([a for a in (*outputs_, *gradients) if a is not None])
        assert results[0]
        compare(version, (outputs_, gradients))
        for others in results[1:]:
            for a, b in zip(results[0], others, strict=True):
                assert np.array_equal(a, b)


@natives
def test_calls_from_several_threads_do_not_mix(engine):
    """Four Python threads convolve at once, each with its own numbers and its own scratch."""

    problems = [fixed("conv", np.float32, seed=seed, edge=True) for seed in range(4)]
    want = [compute(p, engine) for p in problems]
    wrong: list[int] = []

    def work(i: int) -> None:
        p = problems[i]
        wrong.append(i)  # until all went well
        with native.use_isa(engine.isa):
            for _ in range(5):
                y, ctx = run(p.op, p.arrays, p.attrs, engine.backend)
                for a, b in zip((y, *ctx.backward(p.dy)), (*want[i][0], *want[i][1]), strict=True):
                    assert np.array_equal(a, b)
        wrong.remove(i)

    at_once(work, range(4))
    assert not wrong


# --- NaN, Inf, ties ---


def reached(name, p: Problem, at: tuple[int, ...]):
    """Spatial outputs whose window holds the spatial input `at`, by brute force."""
    kernel = p.arrays[1].shape[2:] if name == "conv" else p.attrs["kernel"]
    geometry = axes(p.arrays[0].shape[2:], kernel, p.attrs, 1 if name == "conv" else kernel)
    mask = np.zeros(tuple(a.out for a in geometry), bool)
    for o in outputs(geometry):
        mask[o] = any(kind == REAL and place == at for _, place, kind in taps(geometry, o))
    return mask


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("name", WINDOWED)
@engines
@examples(8)
@given(data=st.data())
def test_a_special_value_reaches_exactly_its_windows(engine, name, value, data):
    """One NaN or Inf in x: an output is special where its window holds it and nowhere else."""
    op = registry[name]
    draw = HypothesisDraw(data, spread=1 if engine.backend == "cuda" else None)
    case = op.domain(draw) if engine.backend == "cuda" or draw.choice([0, 1]) else edge_case(draw, op)
    p = problem(data, op, np.float32, case, layouts=False)
    x = p.arrays[0]
    assume(x.size < (300 if engine.backend == "cuda" else 20_000))
    at = tuple(data.draw(st.integers(0, n - 1)) for n in x.shape)
    x[at] = value
    if data.draw(st.booleans()):
        p = p._replace(arrays=(channels_last(x), *p.arrays[1:]))
    y = compute(p._replace(dy=None), engine)[0][0]
    mask = np.zeros(y.shape, bool)
    groups = p.attrs.get("groups", 1)
    maps_ = slice(at[1], at[1] + 1)
    if name == "conv":
        group, per = at[1] // (x.shape[1] // groups), p.arrays[1].shape[0] // groups
        maps_ = slice(group * per, (group + 1) * per)
    mask[at[0], maps_] = reached(name, p, at[2:])
    if name == "max_pool" and value == -np.inf:  # it wins only where it is alone
        want, _ = run(op, p.arrays, p.attrs, "numpy")
        assert np.array_equal(y, want)
    else:
        assert np.array_equal(~np.isfinite(y), mask)
        assert np.isnan(y[mask]).all() if np.isnan(value) else np.isinf(y[mask]).all()


@engines
def test_nan_in_dy_reaches_exactly_its_inputs(engine):
    """Backward of conv: one NaN in dy is in dx where the window was, in all of dw of its map, and in that map's db."""
    p = fixed("conv", np.float32, seed=4, padding=0, stride=1, dilation=1)
    p.dy[(0,) * p.dy.ndim] = np.nan
    dx, dw, db = compute(p, engine)[1]
    per = p.arrays[1].shape[0] // p.attrs["groups"]
    mask = np.zeros(dx.shape, bool)
    mask[(0, slice(0, p.arrays[1].shape[1]), *(slice(0, k) for k in p.arrays[1].shape[2:]))] = True
    assert per >= 1 and np.array_equal(np.isnan(dx), mask)
    assert np.isnan(dw[0]).all() and not np.isnan(dw[1:]).any()
    assert db is None or np.isnan(db).tolist() == [True] + [False] * (len(db) - 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("name", [
    "relu", "sigmoid", "tanh", "dropout", "add", "softmax", "linear", "concat", "slice", "softmax_cross_entropy",
    "conv_relu",
])  # fmt: skip
@engines
def test_special_values_elsewhere(engine, name, value):
    """The definition and the engine put NaN and Inf at the same places, with the same signs."""
    for seed in range(3):
        p = fixed(name, np.float32, seed=seed)
        p.arrays[0][(0,) * p.arrays[0].ndim] = value
        with np.errstate(all="ignore"):
            y, ctx = run(p.op, p.arrays, p.attrs, "numpy")
            outputs_, gradients = compute(p, engine)
            want = (y, *ctx.backward(p.dy))
        for got, exact in zip((*outputs_, *gradients), want, strict=True):
            if got is not None:
                np.testing.assert_allclose(got, exact, rtol=1e-4, atol=1e-5)  # which is special is exact here


@dtypes
@engines
@pytest.mark.parametrize("name", ["max_pool", "relu_max_pool"])
@examples(10)
@given(data=st.data())
def test_ties_go_to_the_first(engine, name, dtype, data):
    """Few different values, zeros of both signs, -inf and NaN: the saved winner decides the gradient, so compare it."""
    op = registry[name]
    draw = HypothesisDraw(data, spread=1 if engine.backend == "cuda" else None)
    case = op.domain(draw) if engine.backend == "cuda" else edge_case(draw, op)
    special = [1, -1, 0.0, -0.0, -np.inf, np.inf, np.nan]
    levels = np.array(data.draw(st.lists(st.sampled_from(special), min_size=1, max_size=4), label="levels"))
    case = case.__class__((draw.rng.choice(levels, case.arrays[0].shape),), case.attrs, 0)
    p = problem(data, op, dtype, case)
    y, _ctx = run(op, p.arrays, p.attrs, "numpy")
    outputs_, (dx,) = compute(p, engine)
    assert np.array_equal(outputs_[0], y, equal_nan=True)
    want = answer(p)
    check(dx, want.gradients[0], want.gradient_bounds[0], f"{name} gradient of x")


@engines
def test_the_gradient_of_relu_at_zero_is_zero(engine):
    x = np.array([0.0, -0.0, 1.0, -1.0, np.nan] * 9, np.float32)
    p = Problem(registry["relu"], (x,), {}, np.float32, np.ones_like(x))
    (y,), (dx,) = compute(p, engine)
    assert np.array_equal(y, [0, 0, 1, 0, np.nan] * 9, equal_nan=True)
    assert dx.tolist() == [0, 0, 1, 0, 1] * 9
