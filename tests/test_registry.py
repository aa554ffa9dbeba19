"""The table op x backend x dtype, complete: asked for by name, so that no fallback can hide a gap.

A backend that is not there fails these tests. (CUDA runs in Numba's simulator; see conftest.py.)
"""

from __future__ import annotations

import inspect
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from bounds import Problem, answer, check, outputs_of
from engines import to_host
from strategies import DTYPES, cast

import cnncore as cc
from cnncore.backends import select
from cnncore.errors import BackendError, CnncoreError
from cnncore.ops.domain import Draw
from cnncore.ops.op import Op, run
from cnncore.ops.records import registry
from cnncore.ops.roles import DENSE, INDEX, MANY, MAP, RANDOM

OPS = list(registry)


def small(op: Op, dtype, first: int = 0) -> Problem:
    """The first problem of the domain that the simulator can do in about a second."""
    for seed in range(first, first + 100):
        case = op.domain(Draw(seed))
        if sum(a.size for a in case.arrays if a is not None) < 600:
            break
    arrays = cast(op, case, dtype)
    if op.backward is None:
        return Problem(op, arrays, case.attrs, dtype)
    y, _ = run(op, arrays, case.attrs, "numpy")
    return Problem(op, arrays, case.attrs, dtype, Draw(seed).normal(*y.shape).astype(dtype))


def compute_and_check(p: Problem, backend: str) -> None:
    """Forward and backward on a backend, against the definition."""
    want = answer(p)
    y, ctx = run(p.op, p.arrays, p.attrs, backend)
    assert ctx.backend == backend
    for i, got in enumerate(to_host(outputs_of(p.op, y))):
        assert got.dtype == p.dtype
        check(got, want.outputs[i], want.output_bounds[i], f"{p.op.name} on {backend}, output {i}")
    if p.dy is not None:
        names = p.op.names(p.arrays)
        gradients = to_host(ctx.backward(p.dy))
        assert len(gradients) == len(names)
        for name, got, exact, bound in zip(names, gradients, want.gradients, want.gradient_bounds, strict=True):
            assert got is None or got.dtype == p.dtype
            check(got, exact, bound, f"{p.op.name} on {backend}, gradient of {name}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", ["numpy", "c", "cuda"])
@pytest.mark.parametrize("name", OPS)
def test_every_op_has_both_kernels_on_every_backend(name, backend, dtype):
    engine = select.load(backend)
    assert engine.missing(registry[name]) is None
    compute_and_check(small(registry[name], dtype), backend)


@pytest.mark.parametrize("name", OPS)
def test_every_instruction_set_has_every_op(name):
    from cnncore.backends import native

    assert native.supported(), "the C kernels are not built"
    for isa in native.supported():
        with native.use_isa(isa):
            assert select.load("c").missing(registry[name]) is None
            compute_and_check(small(registry[name], np.float32, first=1), "c")


def test_a_named_backend_without_the_kernel_raises():
    """And "auto" falls back to NumPy, visibly."""

    def rule(x):
        """Twice x."""
        return cc.ops.relu.op.rule(x)

    op = Op("no_such_kernel", rule, lambda p, x: (2 * x,), None, {"x": MAP}, (), lambda draw: None, lambda s, a: (1, 1))
    x = np.ones(3, np.float32)
    for backend in [n for n in ("c", "cuda") if select.why_not(n) is None]:
        with pytest.raises(BackendError, match=f"no_such_kernel: backend '{backend}' has no kernel"):
            run(op, (x,), {}, backend)
        with cc.use_backend(backend), pytest.raises(BackendError, match="no_such_kernel"):
            run(op, (x,), {})
    y, ctx = run(op, (x,), {}, "auto")
    assert ctx.backend == "numpy" and y.tolist() == [2, 2, 2]


def test_use_backend_is_undone():
    x = np.ones(3, np.float32)
    before = cc.ops.relu(x)[1].backend
    with cc.use_backend("numpy"):
        assert cc.ops.relu(x)[1].backend == "numpy"
    assert cc.ops.relu(x)[1].backend == before
    with pytest.raises(BackendError):
        cc.use_backend("abacus")
    assert cc.ops.relu(x)[1].backend == before


@pytest.fixture
def choices(monkeypatch):
    """What is chosen in the test is forgotten behind it."""
    monkeypatch.setattr(select, "_calls", [])


def elsewhere(work):
    """`work()` in another thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_a_call_of_use_backend_is_the_choice_of_the_process(choices):
    def computes():
        return cc.ops.relu(np.ones(3))[1].backend

    with cc.use_backend("numpy"):
        assert (computes(), elsewhere(computes)) == ("numpy", "c")
        elsewhere(lambda: cc.use_backend("numpy"))
        cc.use_backend("c")
        assert (computes(), elsewhere(computes)) == ("numpy", "c")
    cc.use_backend("numpy")
    assert (computes(), elsewhere(computes)) == ("numpy", "numpy")
    for _ in range(1000):
        cc.use_backend("c")
    assert (computes(), elsewhere(computes)) == ("c", "c") and len(select._calls) < 100


def test_blocks_of_many_threads_leave_the_process_choice_alone(choices):
    cc.use_backend("numpy")
    with ThreadPoolExecutor(8) as pool:

        def blocks(name):
            for _ in range(200):
                with cc.use_backend(name):
                    assert select.chosen() == name
                assert select.chosen() in ("numpy", "c")  # for an instant, another thread's block that begins

        list(pool.map(blocks, ["c", "numpy"] * 8))
    assert select.chosen() == "numpy"


# --- every record is complete ---


@pytest.mark.parametrize("name", OPS)
def test_the_record(name):
    op = registry[name]
    assert op.name == name and getattr(cc.ops, name).op is op
    assert set(op.arrays.values()) <= {MAP, DENSE, INDEX, RANDOM, MANY}
    parameters = inspect.signature(op.rule).parameters
    arrays = [p.name for p in parameters.values() if p.kind is not p.KEYWORD_ONLY]
    assert arrays == list(op.arrays), "arrays are positional, attributes keyword-only"
    text = inspect.getdoc(op.rule)
    wanted = ["Shapes", "Raises"] if name != "relu" else ["Shapes"]
    assert all(word in text for word in wanted), text
    assert "Gradient" in text or op.backward is None
    call = inspect.signature(getattr(cc.ops, name))
    assert "backend" in call.parameters and list(call.parameters)[: len(arrays)] == arrays


@pytest.mark.parametrize("name", OPS)
def test_the_domain(name):
    """Draws float64 problems that the rule accepts, different ones, with results as the spec says."""
    op = registry[name]
    shapes = set()
    for seed in range(30):
        case = op.domain(Draw(seed))
        spec = op.rule(*case.arrays, **case.attrs)
        for a, role in zip(case.arrays, op.roles(case.arrays), strict=True):
            assert a is None or a.dtype == np.float64 or role == INDEX
        assert case.gap > 0
        results = op.forward(spec.params, *case.arrays)
        assert len(results) == len(spec.results) >= op.outputs
        for result, (shape, dtype) in zip(results, spec.results.values(), strict=True):
            assert np.shape(result) == shape and result.dtype == (dtype or np.float64)
        assert all(saved in spec.results or saved in op.names(case.arrays) for saved in op.saved)
        shapes.add(tuple(np.shape(a) for a in case.arrays))
    assert len(shapes) > 10, "the domain hardly varies"


@pytest.mark.parametrize("name", OPS)
def test_the_gap_is_kept(name):
    """A change of every input by less than `gap` moves no choice: not order, not signs, nor what is saved."""
    op = registry[name]
    for seed in range(20):
        case = op.domain(Draw(seed))
        if not math.isfinite(case.gap):
            continue
        spec = op.rule(*case.arrays, **case.attrs)
        rng = np.random.default_rng(seed)
        moved = tuple(a + rng.uniform(-0.99, 0.99, a.shape) * case.gap for a in case.arrays)
        for a, b in zip(case.arrays, moved, strict=True):
            assert np.array_equal(np.argsort(a, axis=None), np.argsort(b, axis=None))
            assert np.array_equal(np.sign(a), np.sign(b))
        for before, after in zip(op.forward(spec.params, *case.arrays), op.forward(spec.params, *moved), strict=True):
            assert before.dtype.kind == "f" or np.array_equal(before, after)


@pytest.mark.parametrize("name", OPS)
def test_the_cost(name):
    """At least one operation per output; at least every input once and every output once."""
    op = registry[name]
    for seed in range(10):
        case = op.domain(Draw(seed))
        spec = op.rule(*case.arrays, **case.attrs)
        outputs = sum(math.prod(shape) for shape, _ in list(spec.results.values())[: op.outputs])
        inputs = sum(a.size for a in case.arrays if a is not None)
        forward, backward = op.cost(spec, case.arrays, np.float32)
        assert forward.flops >= outputs / op.outputs and forward.bytes >= 4 * (outputs + inputs)
        if op.backward is not None:
            assert backward.flops > 0 and backward.bytes > 0


def test_the_cost_of_a_convolution():
    """Two operations per multiply-add: 2 N K O C/groups taps."""
    x, w = np.zeros((2, 4, 8, 8), np.float32), np.zeros((6, 2, 3, 3), np.float32)
    op = registry["conv"]
    spec = op.rule(x, w, groups=2)
    forward, backward = op.cost(spec, (x, w, None), np.float32)
    assert forward.flops == 2 * (2 * 6 * 6 * 6) * (2 * 9) and backward.flops == 2 * forward.flops
    assert forward.bytes == 4 * (x.size + w.size + 2 * 6 * 36)


def test_the_registry_is_read_only():
    with pytest.raises(TypeError):
        registry["relu"] = None
    assert len(registry) == len(OPS) == len(set(OPS))
    from cnncore.ops.records import register

    with pytest.raises(CnncoreError, match="registered already"):
        register(registry["relu"])
