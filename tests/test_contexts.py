"""What the contexts of layers promise: composition, whose arrays gradients are, and parameters that have changed."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import cnncore as cc
from cnncore.errors import CnncoreError
from cnncore.layers import Chain, Conv2d, Join, Layer, Linear, Parameter, ReLU, Tanh
from cnncore.ops.domain import Draw
from cnncore.ops.op import Op
from cnncore.ops.records import registry
from cnncore.ops.roles import MAP
from cnncore.ops.spec import Case, Spec, flops_free

X = np.random.default_rng(0).standard_normal((4, 3, 7, 7)).astype(np.float32)


class Tap(Layer):
    """The identity; its context keeps the dy that it is given, and hands it on."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def apply(self, x: Any) -> Any:
        def backward(dy: np.ndarray) -> np.ndarray:
            self.seen.append(dy)
            return dy

        return x, SimpleNamespace(backward=backward)


TAPPED = {
    "between": lambda tap: cc.Sequential(Conv2d(3, 5, 3, seed=1), Tanh(), tap, Conv2d(5, 2, 3, seed=2)),
    "inside": lambda tap: cc.Sequential(
        Conv2d(3, 5, 3, seed=1), Tanh(), cc.Sequential(tap, Conv2d(5, 2, 3, seed=2)), ReLU()
    ),
    "twice": lambda tap: cc.Sequential(Conv2d(3, 5, 3, seed=1), Tanh(), tap, tap, Conv2d(5, 2, 3, seed=2)),
    "a path": lambda tap: cc.Sequential(
        Conv2d(3, 5, 3, seed=1), Tanh(), cc.Branches(tap, cc.Sequential(), join="add"), Tanh(), Conv2d(5, 2, 3, seed=2)
    ),
    "behind a view": lambda tap: cc.Sequential(
        Conv2d(3, 5, 3, seed=1), Tanh(), tap, cc.layers.Dropout().eval(), Tanh()
    ),
}


@pytest.mark.parametrize("place", TAPPED)
@pytest.mark.parametrize("last", [False, True])
def test_what_a_layer_is_given_as_dy_it_may_keep(place: str, last: bool) -> None:
    tap = Tap()
    y, ctx = TAPPED[place](tap).apply(X)
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    before = dy.copy()
    found = []

    def watch(dy: np.ndarray) -> np.ndarray:
        tap.seen.append(dy)
        found.append(dy.copy())
        return dy

    for part in contexts_of(ctx):
        if isinstance(part, cc.layers.contexts.OwnContext):
            part.context.backward = watch
    ctx.backward(dy, last=last)
    assert found and np.array_equal(dy, before)
    for kept, right in zip(tap.seen, found, strict=True):
        assert np.array_equal(kept, right)


def contexts_of(context: Any) -> list[Any]:
    inside = getattr(context, "parts", None) or ()
    return [context, *(found for part in inside for found in contexts_of(part))]


def test_a_gradient_that_a_layer_of_ones_own_gave_is_not_added_to() -> None:
    class Shift(Layer):
        def __init__(self) -> None:
            self.b = Parameter(np.zeros((3, 7, 7), np.float32))
            self.given: list[np.ndarray] = []

        def apply(self, x: Any) -> Any:
            def backward(dy: np.ndarray) -> Any:
                self.given.append(dy.sum(axis=0))
                return dy, self.given[-1]

            return x + self.b.value, SimpleNamespace(backward=backward)

    layer = Shift()
    for _ in range(3):
        layer.apply(X)[1].backward(np.ones_like(X))
    assert all(np.array_equal(g, np.full((3, 7, 7), 4)) for g in layer.given)
    assert np.array_equal(layer.b.grad, np.full((3, 7, 7), 12))
    given = np.ones((3, 7, 7), np.float32)
    layer.b.grad = given
    layer.apply(X)[1].backward(np.ones_like(X))
    assert np.array_equal(given, np.ones((3, 7, 7))) and np.array_equal(layer.b.grad, np.full((3, 7, 7), 5))


class Residual(Layer):
    """x + relu(conv(x)): the example of layers/contexts.py."""

    def __init__(self) -> None:
        self.conv, self.relu = Conv2d(3, 3, 3, padding=1, seed=3, dtype=np.float64), ReLU()

    def apply(self, x: Any) -> Any:
        h, first = self.conv.apply(x)
        h, second = self.relu.apply(h)
        y, call = cc.ops.add(x, h)
        return y, Join([Chain(), Chain(first, second)], call)


def test_a_layer_of_ones_own_composes_contexts() -> None:
    x = X.astype(np.float64)
    own, same = Residual(), cc.Branches(cc.Sequential(), cc.Sequential(Residual().conv, ReLU()), join="add")
    assert cc.gradcheck(own, (x,)).ok
    dy = np.random.default_rng(2).standard_normal(x.shape)
    assert np.array_equal(own.forward(x), same.forward(x)) and np.array_equal(own.backward(dy), same.backward(dy))
    for a, b in zip(own.parameters().values(), same.parameters().values(), strict=True):
        assert np.array_equal(a.grad, b.grad)
    assert own.backward(dy, dx=False) is None


# --- parameters that have changed ---


def net() -> cc.Sequential:
    return cc.Sequential(Linear(3, 4, seed=1), Tanh(), Linear(4, 2, seed=2))


def step(net: Any) -> None:
    optimizer = cc.optim.SGD(net, lr=0.1)
    for parameter in net.parameters().values():
        parameter.grad = np.ones_like(parameter.value)
    optimizer.step()


def whole(net: Any) -> None:
    value = net[0].weight.value
    cc.ops.add(value, value, out=(value,))


def part(net: Any) -> None:
    row = net[0].weight.value[1:2]
    cc.ops.add(row, row, out=(row,))


def new(net: Any) -> None:
    net[2].bias.value = net[2].bias.value.copy()


CHANGES = {
    "a step": step, "out": whole, "out, a view": part, "a new array": new,
    "a state": lambda net: net.load_state_dict(net.state_dict()),
}  # fmt: skip


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_parameter_that_has_changed_since_the_forward_is_an_error(change: str, frozen: bool) -> None:
    network = net()
    if frozen:
        network.freeze()
    y, ctx = network.apply(X[:, :, 0, 0])
    ctx.backward(np.ones_like(y))
    CHANGES[change](network)
    with pytest.raises(CnncoreError, match=r"linear: the parameter [wb], of shape .* has changed since this forward"):
        ctx.backward(np.ones_like(y))
    y, ctx = network.apply(X[:, :, 0, 0])
    ctx.backward(np.ones_like(y))


def test_another_network_s_step_changes_nothing() -> None:
    first, second = net(), net()
    y, ctx = first.apply(X[:, :, 0, 0])
    step(second)
    ctx.backward(np.ones_like(y))


# --- copies ---


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda net: pickle.loads(pickle.dumps(net))])
@pytest.mark.parametrize("name", ["lenet", "nin", "alexnet"])
def test_a_network_that_has_run_can_be_copied(copied: Any, name: str) -> None:
    network = {
        "lenet": lambda: cc.Sequential(Conv2d(3, 4, 3, seed=1), ReLU(), cc.layers.MaxPool2d(2)),
        "nin": lambda: cc.Sequential(cc.layers.MLPConv2d(3, (4, 4, 4), 3, seed=1), cc.layers.Dropout(seed=2)),
        "alexnet": lambda: cc.Sequential(cc.layers.HeteroPool2d(["max", "avg"], 2), cc.layers.LPUnit2d(2, 3)),
    }[name]()
    dy = np.ones_like(network.forward(X))
    network.backward(dy)
    other = copied(network)
    with pytest.raises(CnncoreError, match="needs a forward"):
        other.backward(dy)
    same = copied(network)
    assert np.array_equal(other.forward(X), network.forward(X)) or copied is copy.copy
    assert np.array_equal(other.backward(dy), network.backward(dy)) or copied is copy.copy
    if copied is not copy.copy:
        assert not set(map(id, same.parameters().values())) & set(map(id, network.parameters().values()))


# --- several outputs ---


def divide(params: Any, x: np.ndarray, w: np.ndarray) -> Any:
    return x * w, np.sin(x).sum(axis=1)


def divide_backward(params: Any, needs: Any, dy: np.ndarray, total: np.ndarray, x: np.ndarray, w: np.ndarray) -> Any:
    return dy * w + np.cos(x) * total[:, None] if needs[0] else None, dy * x if needs[1] else None


def rule(x: Any, w: Any) -> Spec:
    """y = x w, total = sum of sin x over axis 1."""
    return Spec(SimpleNamespace(), {"y": (x.shape, None), "total": (x.shape[:1], None)})


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An op with two outputs, NumPy's alone."""

    def domain(draw: Draw) -> Case:
        return Case((np.ones((2, 3)), np.ones((2, 3))), {})

    return Op(
        "several", rule, divide, divide_backward, {"x": MAP, "w": MAP}, ("x", "w"), domain, flops_free, outputs=2
    ).function


def test_an_op_with_several_outputs_takes_as_many_dys(several: Any) -> None:
    rng = np.random.default_rng(3)
    x, w, dy, dt = (rng.standard_normal(shape) for shape in ((4, 3), (4, 3), (4, 3), (4,)))
    (y, total), ctx = several(x, w, backend="numpy")
    assert y.shape == (4, 3) and total.shape == (4,) and "several" not in registry
    assert np.allclose(ctx.backward(dy, dt)[0], dy * w + np.cos(x) * dt[:, None])
    assert np.array_equal(ctx.backward(dy, None)[0], dy * w)
    assert not ctx.backward(None, dt)[1].any()
    report = cc.gradcheck(several, (x, w), backend="numpy")
    assert report.ok and [a.verdict for a in report.arguments] == ["ok", "ok"], report
    for wrong, text in (((dy,), "takes a dy for each of its outputs"), ((dy, dy), "dy for total must have y's shape")):
        with pytest.raises(CnncoreError, match=text):
            ctx.backward(*wrong)
    with pytest.raises(CnncoreError, match="takes a dy for each"):
        cc.ops.relu(x)[1].backward(dy, dy)
    with pytest.raises(CnncoreError, match="dy must be a NumPy array, got NoneType"):
        cc.ops.relu(x)[1].backward(None)
