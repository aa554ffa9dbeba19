"""Plans: what calls that are alike share, and what they must not."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from engines import NATIVE, at_once

import cnncore as cc
from cnncore.errors import CnncoreError, DTypeError, ShapeError
from cnncore.ops.domain import Draw
from cnncore.ops.op import MOST_PLANS
from cnncore.ops.records import registry

RNG = np.random.default_rng(0)


def seen(a):
    """All of an array that a rule may look at."""
    return None if a is None else SimpleNamespace(shape=a.shape, ndim=a.ndim, dtype=a.dtype)


@pytest.mark.parametrize("name", list(registry))
def test_rules_do_not_look_at_what_arrays_hold(name):
    op = registry[name]
    for seed in range(10):
        case = op.domain(Draw(seed))
        assert op.rule(*map(seen, case.arrays), **case.attrs) == op.rule(*case.arrays, **case.attrs)


def test_calls_that_are_alike_share_a_plan():
    x = RNG.standard_normal((2, 3, 8, 8), np.float32)
    first, second = (cc.ops.max_pool(a, kernel=2, stride=1)[1] for a in (x, x + 1))
    assert first.plan is second.plan
    others = [
        cc.ops.max_pool(x, kernel=2, stride=2),
        cc.ops.max_pool(x[:1], kernel=2, stride=1),
        cc.ops.max_pool(x.astype(np.float64), kernel=2, stride=1),
        cc.ops.max_pool(x.transpose(0, 1, 3, 2), kernel=2, stride=1),
        cc.ops.max_pool(x, kernel=2, stride=1, backend="numpy"),
        cc.ops.avg_pool(x, kernel=2, stride=1),
    ]
    assert len({id(ctx.plan) for _, ctx in [*others, (None, first)]}) == 7


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ({"kernel": 1}, {"kernel": True}),
        ({"kernel": 1}, {"kernel": 1.0}),
        ({"kernel": (1, 1)}, {"kernel": (1, True)}),
        ({"kernel": 1, "padding": ((0, 0), (0, 0))}, {"kernel": 1, "padding": ((0, 0), (False, 0))}),
        ({"kernel": 1, "ceil_mode": True}, {"kernel": 1, "ceil_mode": 1}),
    ],
)
def test_what_equals_a_good_attribute_is_checked_all_the_same(good, bad):
    x = np.ones((1, 1, 3, 3), np.float32)
    for _ in range(2):
        cc.ops.max_pool(x, **good)
        with pytest.raises(CnncoreError):
            cc.ops.max_pool(x, **bad)


def test_an_attribute_that_changes_is_read_again():
    x = np.ones((1, 1, 4, 4), np.float32)
    kernel = [2, 2]
    assert cc.ops.max_pool(x, kernel=kernel)[0].shape == (1, 1, 2, 2)
    kernel[1] = 4
    assert cc.ops.max_pool(x, kernel=kernel)[0].shape == (1, 1, 2, 1)


def test_values_are_checked_at_every_call():
    logits, labels = np.ones((2, 3), np.float32), np.array([0, 2])
    for _ in range(2):
        cc.ops.softmax_cross_entropy(logits, labels)
        with pytest.raises(CnncoreError, match="labels must lie in"):
            cc.ops.softmax_cross_entropy(logits, labels + 1)
    x, u = np.ones((1, 1, 2, 2), np.float32), np.zeros((1, 1, 1, 1), np.float32)
    for _ in range(2):
        cc.ops.stochastic_pool(x, u, kernel=2)
        cc.ops.stochastic_pool(x, (1, 2), kernel=2)
        with pytest.raises(CnncoreError):
            cc.ops.stochastic_pool(x, (1, -2), kernel=2)
        with pytest.raises(ShapeError):
            cc.ops.stochastic_pool(x, u[0], kernel=2)


def test_types_are_checked_at_every_call():
    a, ints = np.ones(3, np.float32), np.ones(3, np.int32)
    for _ in range(2):
        y, ctx = cc.ops.add(a, a)
        for wrong in (ints, a.astype(np.float64), a.astype(">f4"), None, [1.0], np.ma.masked_array(a)):
            with pytest.raises(DTypeError):
                cc.ops.add(a, wrong)
        with pytest.raises(ShapeError):
            cc.ops.add(a, a[:2])
        with pytest.raises(DTypeError):
            ctx.backward(y.astype(np.float64))
        with pytest.raises(ShapeError):
            ctx.backward(y[:2])


def misaligned(a):
    """A copy one byte behind where it should begin, of the same strides."""
    copy = np.empty(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    copy[...] = a
    assert not copy.flags.aligned and copy.strides == a.strides
    return copy


@pytest.mark.parametrize("backend", ["numpy", *(["c"] if NATIVE else [])])
def test_where_an_array_lies_is_looked_at_in_every_call(backend):
    """Arguments, dy and what is kept, in one plan: aligned, not aligned, read only, of one element."""
    x, dy = RNG.standard_normal((2, 2, 4, 4)), RNG.standard_normal((2, 2, 2, 2))
    y, ctx = cc.ops.lp_pool(x, kernel=2, backend=backend)
    (dx,) = ctx.backward(dy)
    for change in (misaligned, np.copy):
        for spare in (False, True):
            other, ctx = cc.ops.lp_pool(change(x), kernel=2, backend=backend)
            assert np.array_equal(other, y) and np.array_equal(ctx.backward(change(dy), spare=spare)[0], dx)
    fixed = np.frombuffer(x.tobytes()).reshape(x.shape)
    assert np.array_equal(cc.ops.lp_pool(fixed, kernel=2, backend=backend)[0], y)
    for scalar in (np.float64(2), np.array(2.0)):
        y, ctx = cc.ops.relu(scalar, backend=backend)
        assert y == 2 and ctx.backward(np.float64(3))[0] == 3


@pytest.mark.skipif(not NATIVE, reason="the C kernels are not built")
@pytest.mark.parametrize("shape", [(2, 2, 4, 4), (1, 4, 4, 4)])
def test_kernels_do_not_read_what_was_resized_since_forward(shape):
    """Neither an array of less memory, whose strides may be the same, nor of as much."""
    x = RNG.standard_normal((4, 2, 2, 4)) if shape[0] == 1 else RNG.standard_normal((4, 2, 4, 4))
    y, ctx = cc.ops.lp_pool(x, kernel=2, backend="c")
    x.resize(shape, refcheck=False)
    with pytest.raises(ShapeError, match="has become"):
        ctx.backward(np.ones_like(y))


@pytest.mark.skipif(not NATIVE, reason="the C kernels are not built")
def test_kernels_get_the_addresses_of_their_arrays(tmp_path):
    from cnncore.backends import native
    from cnncore.backends.launch import Launch, _address_reader
    from cnncore.backends.slots import Slot

    base = np.arange(48.0).reshape(2, 4, 6)
    file = np.memmap(tmp_path / "map", np.float64, "w+", shape=(3,))
    arrays = [base, base[1:, ::2, 3:], base.T, base[:0], np.array(2.0), np.asfortranarray(base), file, misaligned(base)]
    launch = Launch(native.current_isa(), "relu_forward", np.dtype(float), None, [Slot((), np.dtype(float), False)] * 2)
    for a in arrays:
        assert launch.addresses([a]) == [a.__array_interface__["data"][0]]
    asked = _address_reader(lambda address: [0])  # an object that is laid out in another way
    assert asked(arrays) == [a.__array_interface__["data"][0] for a in arrays]


def test_plans_do_not_pile_up():
    for size in range(3 * MOST_PLANS):
        cc.ops.relu(np.ones(size, np.float32))
    assert 0 < len(registry["relu"].plans) <= MOST_PLANS


def test_threads_share_a_plan_but_no_call():
    xs = [RNG.standard_normal((4, 8, 16, 16)) for _ in range(8)]
    pool = cc.ops.avg_pool.op
    right = [pool.forward(pool.rule(x, kernel=3).params, x)[0] for x in xs]
    wrong = []

    def work(number):
        for _ in range(100):
            y, ctx = cc.ops.avg_pool(xs[number], kernel=3)
            (dx,) = ctx.backward(np.full(y.shape, number + 1.0))
            if abs(y - right[number]).max() > 1e-12 or abs(dx[..., :15, :15] - (number + 1) / 9).max() > 1e-12:
                wrong.append(number)

    at_once(work, range(8))
    assert not wrong


def calls_of(work):
    """How many functions of cnncore are called; comprehensions and generators are none."""
    inside, count = str(Path(cc.__file__).parent), 0

    def profile(frame, event, arg):
        nonlocal count
        code = frame.f_code
        count += event == "call" and code.co_filename.startswith(inside) and not code.co_name.startswith("<")

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.skipif(not NATIVE, reason="the C kernels are not built")
def test_a_call_takes_few_steps():
    w = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)
    first, second = (RNG.standard_normal((2, 3, size, size)).astype(np.float32) for size in (8, 9))
    cc.ops.conv(first, w, padding=1, backend="c")  # modules are loaded, and what they found is known
    assert calls_of(lambda: cc.ops.conv(second, w, padding=2, backend="c")) <= 50
    assert calls_of(lambda: cc.ops.conv(second, w, padding=2, backend="c")) <= 10


def test_a_rate_that_changes_makes_no_plan():
    value, grad = np.ones(5, np.float32), np.ones(5, np.float32)
    steps = {
        "sgd_step": lambda k: cc.ops.sgd_step(value, grad, grad, lr=1 / k, momentum=1 - 1 / k, weight_decay=1 / k),
        "adam_step": lambda k: cc.ops.adam_step(value, grad, grad, grad, lr=1 / k, step=k),
    }
    for name, step in steps.items():
        op = registry[name]
        op.plans.clear()
        for k in range(1, 200):
            got, _ = step(k)
            assert len(op.plans) == 1
            with cc.use_backend("numpy"):
                (right, *_), _ = step(k)
            assert np.allclose(got[0], right, rtol=1e-5)
            op.plans.pop(next(key for key in op.plans if key[0] == "numpy"))


def test_numbers_that_change_are_checked_in_every_call():
    value = np.ones(5, np.float32)
    for _ in range(2):
        cc.ops.sgd_step(value, value, value, lr=0.1)
        with pytest.raises(CnncoreError, match="sgd_step: lr must be a finite number at least 0"):
            cc.ops.sgd_step(value, value, value, lr=-0.1)
        with pytest.raises(CnncoreError, match="sgd_step: got an unexpected keyword argument 'rate'"):
            cc.ops.sgd_step(value, value, value, lr=0.1, rate=2)
        with pytest.raises(CnncoreError, match="sgd_step: missing a required"):
            cc.ops.sgd_step(value, value, value)
