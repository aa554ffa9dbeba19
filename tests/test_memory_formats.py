"""Backends: memory formats, `out`, and keys of randomness."""

from __future__ import annotations

import numpy as np
from bounds import Problem
from strategies import LAYOUTS, channels_last, maps
from test_backends import OPS, compute, copies, dtypes, engines, fixed, hosts, natives, ops

from cnncore.backends import select
from cnncore.backends.philox import uniform
from cnncore.ops.op import run
from cnncore.ops.records import registry
from cnncore.ops.roles import DENSE, INDEX, MAP

# --- memory: format, out, keys ---


@ops
@natives
def test_results_keep_the_memory_format(engine, name):
    """Channels-last in, channels-last out, forward and backward; contiguous in, contiguous out."""
    op = registry[name]
    seen = 0
    for seed in range(20):
        p = fixed(name, np.float32, seed)
        where = maps(op, p.arrays)
        if not where or len(where) < len([r for r in op.roles(p.arrays) if r == MAP]) or p.dy.ndim < 3:
            continue
        for change in (channels_last, np.ascontiguousarray):
            arrays = tuple(change(a) if i in where else a for i, a in enumerate(p.arrays))
            outputs_, gradients = compute(p._replace(arrays=arrays, dy=change(p.dy)), engine)
            for a in (*outputs_, *(gradients[i] for i in where)):
                assert np.array_equal(a.strides, change(a).strides) or 1 in a.shape, "another memory format"
            for i, gradient in enumerate(gradients):
                if gradient is not None and op.roles(p.arrays)[i] == DENSE:
                    assert gradient.flags.c_contiguous
            seen += 1
    assert seen or name in ("linear", "softmax_cross_entropy", "sgd_step", "adam_step")


@ops
@hosts
def test_out(engine, name):
    """Results written to given arrays, in any layout, also where they are (parts of) the arguments."""
    for seed, last in ((0, False), (1, False), (2, True)):
        p = fixed(name, np.float32, seed)._replace(dy=None)
        if last:
            p = p._replace(
                arrays=tuple(
                    channels_last(a) if r == MAP else a for a, r in zip(p.arrays, p.op.roles(p.arrays), strict=True)
                )
            )
        want = compute(p, engine)[0]
        for layout in LAYOUTS:
            if layout in ("read_only", "stride_zero"):
                continue
            out = tuple(LAYOUTS[layout](np.full_like(a, np.nan)) if a.ndim else np.full_like(a, np.nan) for a in want)
            got = compute(p, engine, out=out)[0]
            for given_, returned, exact in zip(out, got, want, strict=True):
                assert returned is given_ and np.array_equal(given_, exact), layout


@ops
@hosts
def test_out_may_be_an_argument(engine, name):
    """Any argument of the right shape, whole or overlapping: as if it had been copied before."""
    attrs = {"conv": {"padding": 1}, "max_pool": {"kernel": 3, "padding": 1, "stride": 1}}
    attrs["avg_pool"] = attrs["max_pool"]
    for i in range(4):
        p = fixed(name, np.float32, 5)
        if name in attrs:
            shape, w = (2, 3, 5, 6), np.random.default_rng(0).standard_normal((3, 3, 3, 3)).astype(np.float32)
            x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
            p = Problem(p.op, (x, w, None) if name == "conv" else (x,), attrs[name], np.float32)
        p = p._replace(dy=None)
        want = compute(p, engine)[0]
        if i >= len(p.arrays) or p.arrays[i] is None or p.arrays[i].shape != want[0].shape:
            continue
        if p.op.roles(p.arrays)[i] == INDEX:
            continue
        out = (p.arrays[i], *(np.empty_like(a) for a in want[1:]))
        got = compute(p, engine, out=out)[0]
        assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True)), f"in place of argument {i}"
        # Overlapping: the argument and the result are one buffer, shifted by one element.
        p = p._replace(arrays=tuple(copies(cast_back(p, name, attrs))))
        buffer = np.zeros(p.arrays[i].size + 1, np.float32)
        buffer[:-1] = p.arrays[i].reshape(-1)
        argument, target = buffer[:-1].reshape(want[0].shape), buffer[1:].reshape(want[0].shape)
        p = p._replace(arrays=(*p.arrays[:i], argument, *p.arrays[i + 1 :]))
        got = compute(p, engine, out=(target, *(np.empty_like(a) for a in want[1:])))[0]
        assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True)), f"overlapping argument {i}"


def cast_back(p, name, attrs):
    """The arguments of `p` as they were drawn (the call before may have written over one)."""
    fresh = fixed(name, np.float32, 5).arrays
    if name not in attrs:
        return fresh
    x = np.random.default_rng(1).standard_normal((2, 3, 5, 6)).astype(np.float32)
    return (x, *p.arrays[1:])


@engines
@dtypes
def test_dropout_with_a_key_is_dropout_with_its_array(engine, dtype):
    for shape in [(7,), (2, 3, 4, 5)]:
        x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
        for arrays in [(x, (9, 2**40)), (channels_last(x), (9, 2**40))]:
            keyed = Problem(registry["dropout"], arrays, {"p": 0.4}, dtype, np.ones(shape, dtype))
            given_ = keyed._replace(arrays=(arrays[0], uniform((9, 2**40), shape, dtype)))
            for a, b in zip(compute(keyed, engine)[0], compute(given_, engine)[0], strict=True):
                assert np.array_equal(a, b) and 0 < np.count_nonzero(a) < a.size
            assert np.array_equal(compute(keyed, engine)[1][0], compute(given_, engine)[1][0])


@natives
@dtypes
def test_dropout_draws_the_same_in_every_piece(engine, dtype):
    """Of contiguous maps in one loop with the product, whose end is done apart; the last shape's result is streamed."""
    for shape in [(3, 5, 61, 67), (1, 1, 2099, 2003)]:
        x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
        u = uniform((9, 2**40), shape, dtype)
        for given_ in ((x, (9, 2**40)), (channels_last(x), (9, 2**40)), (x, u)):
            with engine.running() as backend:
                y, ctx = run(registry["dropout"], given_, {"p": 0.4}, backend)
                assert np.array_equal(ctx.backward(x)[0], y)
            assert np.array_equal(y, np.where(u >= dtype(0.4), x * dtype(1 / 0.6), 0))


@natives
def test_a_context_can_be_asked_twice(engine):
    """Backward leaves what it reads: a second time gives the same gradients."""
    for name in OPS:
        p = fixed(name, np.float32, seed=6)
        if p.dy is None:
            continue
        with engine.running() as backend:
            _, ctx = run(p.op, p.arrays, p.attrs, backend)
            first, second = ctx.backward(p.dy), ctx.backward(p.dy)
        for a, b in zip(first, second, strict=True):
            assert (a is None and b is None) or (a is not b and np.array_equal(a, b))


def test_auto_is_the_fastest_that_is_there():
    x = np.ones(3, np.float32)
    assert run(registry["relu"], (x,), {}, "auto")[1].backend == ("c" if select.why_not("c") is None else "numpy")


@hosts
def test_zero_axes_stay_an_array(engine):
    """0-d in, 0-d array out, not a NumPy scalar."""
    for name in ("relu", "add"):
        with engine.running() as backend:
            y, ctx = run(registry[name], (np.array(2.0),), {}, backend)
            (dx,) = ctx.backward(np.array(3.0))
        assert type(y) is type(dx) is np.ndarray and (y, dx) == (2.0, 3.0)
