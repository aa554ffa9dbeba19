"""The CUDA backend, in the simulator (conftest.py) or on a GPU, against the NumPy definition.

In the simulator all memory that kernels write holds NaN before (backends/kernel.py), so what they leave out shows.
"""

import runpy
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import cnncore as cc
from cnncore.backends import select
from cnncore.backends.device import is_foreign, to_device, to_host
from cnncore.backends.philox import uniform
from cnncore.errors import BackendError
from cnncore.ops import pool_walk, records, registry
from cnncore.ops.domain import Draw
from cnncore.ops.op import run

if select.why_not("cuda") is not None:
    pytest.fail(f"numba-cuda belongs to the test extra: {select.why_not('cuda')}", pytrace=False)

from cnncore.backends import kernel  # imports Numba
from cnncore.ops import conv_cuda, pool_walk_cuda

RELATIVE = {np.dtype(np.float32): 2e-6, np.dtype(np.float64): 4e-15}  # of the largest magnitude: sums of up to 400
RNG = np.random.default_rng(7)


def normal(*shape, dtype=np.float64):
    return RNG.standard_normal(shape).astype(dtype)


def agree(got, expected, what):
    if expected is None:
        assert got is None, what
        return
    assert isinstance(got, np.ndarray), what
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype), what
    if expected.dtype.kind != "f":
        assert np.array_equal(got, expected), what
        return
    finite = expected[np.isfinite(expected)]
    scale = max(1.0, np.abs(finite).max()) if finite.size else 1.0
    np.testing.assert_allclose(got, expected, rtol=0, atol=RELATIVE[expected.dtype] * scale, err_msg=str(what))


def check(name, *arrays, dy=None, **attrs):
    """Forward, what is saved for backward, and backward; returns the CUDA result and gradients."""
    op = registry[name]
    expected, reference = run(op, arrays, attrs, "numpy")
    got, context = run(op, arrays, attrs, "cuda")
    assert context.backend == "cuda"
    for pair in zip(*((r if op.outputs > 1 else (r,)) for r in (got, expected)), strict=True):
        agree(*pair, (name, "result"))
    for g, e, saved in zip(context.saved, reference.saved, op.saved, strict=True):
        agree(g, e if e is None else np.asarray(e), (name, saved))
    if op.backward is None:
        return got, ()
    if dy is None:
        dy = normal(*context.shape, dtype=context.dtype)
    grads = context.backward(dy)
    for n, g, e in zip(context.names, grads, reference.backward(dy), strict=True):
        agree(g, e, (name, "gradient", n))
    return got, grads


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", list(registry))
def test_every_op_agrees_with_the_definition(name, dtype):
    assert select.load("cuda").missing(registry[name]) is None
    for seed in range(5):
        case = registry[name].domain(Draw(seed))
        arrays = [a if a is None or a.dtype.kind != "f" else a.astype(dtype) for a in case.arrays]
        check(name, *arrays, **case.attrs)


# --- tiles, parts, launch sizes ---


@pytest.mark.parametrize("k", [conv_cuda.ROWS - 1, conv_cuda.ROWS, conv_cuda.ROWS + 1])
@pytest.mark.parametrize("n", [conv_cuda.COLUMNS - 1, conv_cuda.COLUMNS, conv_cuda.COLUMNS + 1])
def test_products_around_the_tile_edges(k, n):
    for depth in (conv_cuda.DEPTH - 1, conv_cuda.DEPTH, conv_cuda.DEPTH + 1):
        check("linear", normal(n, depth), normal(k, depth), normal(k))


def test_weight_gradients_in_parts():
    """A depth that is cut into 1, 2 or more parts, and not at a multiple of a step."""
    for n in (1, 2, 5):
        positions = conv_cuda.PART if n > 1 else conv_cuda.PART // 2
        check("conv", normal(n, 2, positions + 3), normal(3, 2, 3), None)


@pytest.mark.parametrize("name", ["max_pool", "softmax", "conv", "sgd_step"])
def test_launch_sizes_change_no_bit(name, monkeypatch):
    case = registry[name].domain(Draw(11))
    found = []
    for blocks in (1, 3, 100):
        monkeypatch.setattr(kernel, "BLOCKS", blocks)
        found.append(check(name, *case.arrays, dy=np.ones(run(registry[name], case.arrays, case.attrs)[1].shape),
                           **case.attrs))  # fmt: skip
    for other in found[1:]:
        for a, b in zip((*found[0][0], *found[0][1]), (*other[0], *other[1]), strict=True):
            assert a is None or np.array_equal(a, b)


@pytest.mark.skipif(not kernel.SIMULATED, reason="a repair of the simulator")
def test_threads_that_ask_for_shared_memory_at_once_get_one_array():
    """The simulator's own gives each of them one: now and then a convolution came out wrong."""
    from numba.cuda.simulator.kernelapi import FakeCUDAShared

    both_inside = threading.Barrier(2, timeout=30)

    class Four:
        def __index__(self):
            both_inside.wait()
            return 4

    shared = FakeCUDAShared(0)
    with ThreadPoolExecutor(2) as pool:
        a, b = pool.map(lambda _: shared.array(Four(), np.float64), range(2))
    assert a is b and a.shape == (4,)


# --- a pooling variant ---


@pytest.fixture
def square_pool(monkeypatch):
    """y = sum over the window of x^2: for NumPy, and what a variant takes on the device."""
    monkeypatch.setattr(records, "_registry", dict(records._registry))
    monkeypatch.setattr(kernel, "KERNELS", [])
    pool_walk.variant(
        "square_pool",
        lambda v, p: ((v.values**2).sum(axis=-1),),
        lambda v, p, dy: 2 * v.values * dy[..., None],
        saved=("x",),
        doc="Sums of squares.\n",
    )

    @pool_walk_cuda.over
    def sum_of_squares(total, v, tap, w, c):
        return total + v * v

    @kernel.device
    def reduce(m, w, flag, p):
        return sum_of_squares(m.x.dtype.type(0), m, w, 0), (m.x.dtype.type(0),), (-1,)

    @kernel.device
    def spread(m, e, flag, p):
        return (m.x[e.here] + m.x[e.here]) * m.dy[e.at]

    for name, pair in pool_walk_cuda.variant("square_pool", reduce, spread).items():
        monkeypatch.setitem(select.load("cuda")._table, name, pair)
    return [records._registry[name] for name in ("square_pool", "global_square_pool")]


def test_a_pooling_variant_is_two_device_functions_and_a_line(square_pool):
    for record in square_pool:
        for seed in range(10):
            case = record.domain(Draw(seed))
            y, context = run(record, case.arrays, case.attrs, "cuda")
            expected, reference = run(record, case.arrays, case.attrs, "numpy")
            agree(y, expected, record.name)
            agree(context.backward(y)[0], reference.backward(y)[0], record.name)


EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_example_of_the_documentation(monkeypatch):
    """docs/pooling-variant.md: an op that keeps two indices, in NumPy and on the device."""
    assert (EXAMPLES / "top_two_pool_cuda.py").read_text() in (EXAMPLES.parent / "docs/pooling-variant.md").read_text()
    monkeypatch.setattr(records, "_registry", dict(records._registry))
    monkeypatch.setattr(kernel, "KERNELS", [])
    ops = runpy.run_path(str(EXAMPLES / "top_two_pool.py"))
    for name, pair in runpy.run_path(str(EXAMPLES / "top_two_pool_cuda.py"))["TABLE"].items():
        monkeypatch.setitem(select.load("cuda")._table, name, pair)
    for name in ("top_two_pool", "global_top_two_pool"):
        op = ops[name].op
        for seed in range(10):
            case = op.domain(Draw(seed))
            y, context = run(op, case.arrays, case.attrs, "cuda")
            expected, reference = run(op, case.arrays, case.attrs, "numpy")
            agree(y, expected, name)
            for kept, right in zip(context.saved, reference.saved, strict=True):
                assert np.array_equal(kept, right)
            agree(context.backward(y)[0], reference.backward(y)[0], name)


# --- awkward points ---

NAN, INF = np.nan, np.inf


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_max_pool_ties_nan_and_minus_infinity(dtype):
    x = np.array([[[[1, 1, 2, 2], [1, 1, 2, 2], [NAN, 5, -INF, -INF], [6, NAN, -INF, -INF]]]], dtype)
    y, (dx,) = check("max_pool", x, kernel=2, dy=np.ones((1, 1, 2, 2), dtype))
    assert np.array_equal(y[0, 0], np.array([[1, 2], [NAN, -INF]], dtype), equal_nan=True)
    assert [tuple(i) for i in np.argwhere(dx[0, 0])] == [(0, 0), (0, 2), (2, 0), (2, 2)]  # the first of each window
    low = np.full((1, 1, 3, 3), -INF, dtype)
    y, (dx,) = check("max_pool", low, kernel=2, stride=2, padding=1, dy=np.ones((1, 1, 2, 2), dtype))
    assert np.all(y == -INF) and dx.sum() == 4  # padding wins nothing


def test_avg_pool_counts_pads_but_not_the_overhang():
    x = normal(2, 3, 5, 6)
    for include in (False, True):
        check("avg_pool", x, kernel=3, stride=2, padding=((1, 0), (0, 1)), ceil_mode=True, count_include_pad=include)
    bad = x.copy()
    bad[0, 0, 0, 0] = NAN
    check("avg_pool", bad, kernel=2, padding=1)


def test_nan_and_infinity_go_through():
    x, w = normal(1, 2, 4, 4), normal(2, 2, 3, 3)
    x[0, 1, 2, 2], x[0, 0, 0, 0] = NAN, 1e300
    check("conv", x, w, None, padding=1)
    row = np.array([[1.0, NAN, 2], [INF, 0, 1], [-INF, 0, 1], [1e4, -1e4, 0]])
    check("softmax", row)
    check("softmax_cross_entropy", row[2:], np.array([1, 0], np.int16))
    y, _ = run(registry["softmax_cross_entropy"], (row, np.arange(3)[[0, 1, 2, 0]]), {}, "cuda")
    assert np.isnan(y)
    check("relu", np.array([-1.0, 0, -0.0, NAN, INF, -INF, 3]), dy=np.arange(1.0, 8))
    dropped = np.array([NAN, INF, 2.0])
    check("dropout", dropped, np.array([0.1, 0.6, 0.5]), p=0.5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_empty_batch(dtype):
    _, (dx, dw, db) = check("conv", normal(0, 2, 5, 5, dtype=dtype), normal(3, 2, 3, 3, dtype=dtype),
                            normal(3, dtype=dtype))  # fmt: skip
    assert dx.shape == (0, 2, 5, 5) and not dw.any() and not db.any()
    _, (_, dw, db) = check("linear", normal(0, 4, dtype=dtype), normal(3, 4, dtype=dtype), normal(3, dtype=dtype))
    assert dw.shape == (3, 4) and not dw.any() and not db.any()
    empty = normal(0, 2, 4, 4, dtype=dtype)
    for name in ("relu", "softmax", "add", "concat"):
        check(name, empty)
    check("max_pool", empty, kernel=2)
    check("avg_pool", empty, kernel=2)
    check("dropout", empty, (1, 2))
    loss, _ = check("softmax_cross_entropy", normal(0, 3, dtype=dtype), np.zeros(0, np.int64))
    assert loss == 0


def test_a_convolution_over_padding_alone():
    check("conv", normal(2, 1, 0, 3), normal(2, 1, 1, 1), normal(2), padding=((1, 1), (0, 0)))


# --- memory layouts and places ---


def layouts(a):
    yield "channels-last", np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1)
    yield "reversed", np.ascontiguousarray(a[..., ::-1])[..., ::-1]
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]))
    wide[..., ::2] = a
    yield "sliced", wide[..., ::2]
    yield "Fortran", np.asfortranarray(a)
    still = a.copy()
    still.setflags(write=False)
    yield "read-only", still
    yield "broadcast", np.broadcast_to(a[:1], a.shape)


def test_any_layout_of_a_numpy_array():
    for _, x in layouts(normal(2, 3, 4, 1)):
        check("conv", x, np.moveaxis(normal(3, 2, 1, 4), -1, 0), normal(8)[::2], padding=(1, 0))
        check("max_pool", x, kernel=(2, 1), dy=np.broadcast_to(2.0, (2, 3, 2, 1)))
    for _, x in layouts(normal(3, 4)):
        check("linear", x, normal(4, 3).T)
        check("relu", x, dy=x)


def test_a_network_that_lives_on_the_device():
    w, b, v = normal(3, 1, 3, 3), normal(3), normal(4, 12)
    x, labels = normal(2, 1, 4, 4), np.array([1, 3], np.int32)

    def network(backend, w, b, v):
        contexts = []
        h = x
        for f, *arguments in ((cc.ops.conv, w, b), (cc.ops.relu,), (cc.ops.max_pool,), (cc.ops.dropout, (5, 6))):
            attrs = {"conv": {"padding": 1}, "max_pool": {"kernel": 2}}.get(f.__name__, {})
            h, context = f(h, *arguments, backend=backend, **attrs)
            contexts.append(context)
        h, last = cc.ops.linear(h.reshape((2, 12)), v, backend=backend)
        loss, top = cc.ops.softmax_cross_entropy(h, labels, backend=backend)
        dh, _ = top.backward()
        dh, dv, _ = last.backward(dh)
        dh = dh.reshape((2, 3, 2, 2))
        for context in reversed(contexts[1:]):
            dh = context.backward(dh)[0]
        dx, dw, db = contexts[0].backward(dh, needs=("w", "b"))
        assert dx is None
        return loss, dv, dw, db

    expected = network("numpy", w, b, v)
    got = network(None, *(to_device(a) for a in (w, b, v)))  # "auto" sees device arrays
    for g, e in zip(got, expected, strict=True):
        assert is_foreign(g)
        agree(g.copy_to_host(), np.asarray(e), "on the device")


def test_device_arrays_need_the_cuda_backend():
    with pytest.raises(BackendError, match="on the CUDA device"):
        cc.ops.relu(to_device(normal(3)), backend="numpy")


@pytest.mark.parametrize("place", [np.array, to_device], ids=["host", "device"])
def test_steps_in_place(place):
    value, grad, velocity = (normal(3, 4) for _ in range(3))
    attrs = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
    (new, speed), _ = cc.ops.sgd_step(value, grad, velocity, backend="numpy", **attrs)
    a, g, v = place(value), place(grad), place(velocity)
    (got, fast), _ = cc.ops.sgd_step(a, g, v, out=(a, v), backend="cuda", **attrs)
    assert got is a and fast is v
    agree(to_host(a), new, "value")
    agree(to_host(v), speed, "velocity")
    assert np.array_equal(to_host(g), grad)


def test_out_may_be_an_input_of_any_op():
    xs = [normal(2, 3) for _ in range(3)]
    for place in range(3):
        device = [to_device(x) for x in xs]
        y, _ = cc.ops.add(*device, out=(device[place],))
        assert y is device[place]
        agree(y.copy_to_host(), sum(xs[1:], xs[0]), "add")
    x, w = normal(1, 2, 5), normal(2, 2, 3)
    expected, _ = cc.ops.conv(x, w, padding=1, backend="numpy")
    x = to_device(x)
    y, _ = cc.ops.conv(x, w, padding=1, out=(to_device(normal(1, 2, 5)),))
    agree(y.copy_to_host(), expected, "conv")
    strided = np.zeros((1, 5, 2)).transpose(0, 2, 1)
    cc.ops.conv(x.copy_to_host(), w, padding=1, out=(strided,), backend="cuda")
    agree(np.array(strided), expected, "conv to a strided array")


def test_gradients_that_are_not_needed_are_not_computed(monkeypatch):
    launched = []
    blocks = kernel.Kernel.blocks
    monkeypatch.setattr(kernel.Kernel, "blocks", lambda self, *a: (launched.append(self.name), blocks(self, *a)))
    _, context = cc.ops.conv(normal(1, 2, 4), normal(2, 2, 2), normal(2), backend="cuda")
    for needs, names in ((("x",), {"conv_input"}), (("w",), {"conv_weight"}), (("b",), {"sum_maps"}), ((), set())):
        launched.clear()
        context.backward(normal(1, 2, 3), needs=needs)
        assert set(launched) == names
    for name in (n for n in registry if registry[n].backward is not None):
        case = registry[name].domain(Draw(3))
        _, context = run(registry[name], case.arrays, case.attrs, "cuda")
        launched.clear()
        assert not any(g is not None for g in context.backward(np.ones(context.shape), needs=()))
        assert not launched, name


# --- randomness ---


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("key", [(0, 0), (1, 2**64 - 1), (2**64 - 1, 2**32), (2**33 + 5, 17)])
def test_uniforms_are_the_definitions(key, dtype):
    for shape in ((), (0,), (1,), (3, 5), (2, 2, 4)):
        u = to_host(select.load("cuda").uniform(key, shape, dtype))
        assert u.dtype == dtype and np.array_equal(u, uniform(key, shape, dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dropout_from_a_key_is_bit_for_bit_the_definitions(dtype):
    x, dy = normal(3, 5, 2, dtype=dtype), normal(3, 5, 2, dtype=dtype)
    results = []
    for backend in ("numpy", "cuda"):
        y, context = cc.ops.dropout(x, (3, 2**40), p=0.3, backend=backend)
        assert isinstance(y, np.ndarray)  # the key's uniforms are made on the device, but x is the caller's
        results.append((y, context.backward(dy)[0]))
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))
