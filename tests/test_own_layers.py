"""Layers of a user's own: contexts with `backward(dy)` alone, and layers and parameters in lists."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import cnncore as cc
from cnncore.layers import Layer, Linear, Parameter, Tanh


class Scaled:
    """Of y = w x: dx, and dw where it is wanted."""

    def __init__(self, x: np.ndarray, w: np.ndarray, form: str) -> None:
        self.x, self.w, self.form = x, w, form

    def backward(self, dy: np.ndarray) -> Any:
        dx, dw = dy * self.w, (dy * self.x).sum(axis=0)
        return {"dx": dx, "(dx,)": (dx,), "(dx, dw)": (dx, dw), "[dw too]": (dx, dw, None)}[self.form]


class Scale(Layer):
    def __init__(self, size: int, form: str = "(dx, dw)") -> None:
        w = np.linspace(1, 2, size)
        self.w, self.form = (w if form in ("dx", "(dx,)") else Parameter(w)), form

    def apply(self, x: Any) -> Any:
        w = self.w.value if isinstance(self.w, Parameter) else self.w
        return x * w, Scaled(x, w, self.form)


class OneOp(Layer):
    """What an op returns, as it is: its context gives dx, dw, db."""

    def __init__(self, size: int) -> None:
        self.w, self.b = Parameter(np.eye(size) * 2), Parameter(np.ones(size))

    def apply(self, x: Any) -> Any:
        return cc.ops.linear(x, self.w.value, self.b.value)


X = np.random.default_rng(0).standard_normal((5, 3))


def linear(i: int, o: int, seed: int = 1) -> Linear:
    return Linear(i, o, dtype=np.float64, seed=seed)


OWN = {form: lambda form=form: Scale(3, form) for form in ("dx", "(dx,)", "(dx, dw)", "[dw too]")}
OWN["an op's"] = lambda: OneOp(3)
PLACES = {
    "alone": lambda own: own,
    "first": lambda own: cc.Sequential(own, linear(3, 2)),
    "inside": lambda own: cc.Sequential(linear(3, 3), cc.Sequential(own, Tanh()), linear(3, 2)),
    "beside": lambda own: cc.Branches(own, linear(3, 3), join="add"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("own", OWN)
def test_a_context_with_backward_of_dy_alone(own: str, place: str) -> None:
    """The derivative by x and by every parameter, in every place of a network."""
    net = PLACES[place](OWN[own]())
    report = cc.gradcheck(net, (X,))
    assert report.ok and len(report.arguments) == 1 + len(net.parameters())
    y = net.forward(X)
    assert net.backward(np.ones_like(y)).shape == X.shape
    gradients = {name: p.grad.copy() for name, p in net.parameters().items()}
    net.zero_grad()
    _, context = net.apply(X)
    assert context.backward(np.ones_like(y), dx=False, last=True) is None
    for name, p in net.parameters().items():
        np.testing.assert_array_equal(p.grad, gradients[name])


def test_a_frozen_layer_gets_no_gradients() -> None:
    net = cc.Sequential(Scale(3), linear(3, 2)).freeze()
    y = net.forward(X)
    assert net.backward(np.ones_like(y)) is not None
    assert all(p.grad is None for p in net.parameters().values())


def test_an_own_layer_learns_in_a_trainer_and_is_summed_up() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)

    class Half(Layer):
        def __init__(self) -> None:
            self.gain = Parameter(np.ones(3, np.float32))

        def apply(self, x: Any) -> Any:
            return x * self.gain.value, Scaled(x, self.gain.value, "(dx, dw)")

    for net in (cc.Sequential(Half(), Linear(3, 2, seed=0)), cc.Sequential(Linear(3, 3, seed=0), Half())):
        before = {name: p.value.copy() for name, p in net.parameters().items()}
        history = cc.Trainer(net, cc.optim.SGD(net, lr=0.3), quiet=True).fit((x, y), epochs=5)
        assert history[-1]["train_loss"] < history[0]["train_loss"]
        assert all(not np.array_equal(p.value, before[name]) for name, p in net.parameters().items())
        assert cc.models.summary(net, (2, 3)).parameters == sum(p.value.size for p in net.parameters().values())


def test_apply_of_a_mixin_and_of_a_base() -> None:
    class Doubles:
        def apply(self, x: Any) -> Any:
            return 2 * x, Scaled(x, np.full(3, 2.0), "dx")

    class Mixed(Doubles, Layer):
        pass

    class Derived(Mixed):
        def apply(self, x: Any) -> Any:
            y, context = super().apply(x)
            return y, context

    for layer in (Mixed(), Derived()):
        net = cc.Sequential(linear(3, 3), layer)
        net.forward(X)
        np.testing.assert_allclose(net.backward(X), 2 * X @ net[0].weight.value, rtol=1e-12)


def test_a_layer_may_be_a_dataclass() -> None:
    @dataclass
    class Pair(Layer):
        first: Layer
        second: Layer

        def apply(self, x: Any) -> Any:
            return cc.Sequential(self.first, self.second).apply(x)

    net = Pair(linear(3, 3), Pair(linear(3, 2), Tanh()))
    assert list(net.parameters()) == ["first.weight", "first.bias", "second.first.weight", "second.first.bias"]
    assert cc.gradcheck(net, (X,)).ok and not net.eval().second.second.training
    cc.optim.SGD(net, lr=0.1, weight_decay={Linear: 0.1}).step()
    assert cc.models.summary(net, (1, 3)).parameters == 20


@pytest.mark.parametrize(
    "returned,message",
    [
        (lambda x: x, r"apply must return \(y, context\), with a method context.backward\(dy\)"),
        (lambda x: (x, None), r"apply must return \(y, context\)"),
        (lambda x: (x, Scaled(x, np.ones(3), "(dx, dw)"), 1), r"apply must return \(y, context\)"),
        (
            lambda x: (x, Scaled(x, np.ones(3), "(dx, dw)")),
            r"dx and the gradients of 0 parameters \(\); got 2 gradients",
        ),
    ],
)
def test_what_no_layer_returns(returned: Any, message: str) -> None:
    class Wrong(Layer):
        def apply(self, x: Any) -> Any:
            return returned(x)

    with pytest.raises(cc.CnncoreError, match=f"Wrong: .*{message}"):
        cc.Sequential(Wrong()).forward(X)
        Wrong().apply(X)[1].backward(X)


def test_a_gradient_of_another_shape() -> None:
    net = Scale(3)
    net.w.value = np.ones((1, 3))
    net.forward(X)
    with pytest.raises(cc.ShapeError, match=r"Scale: the gradient of w must have shape \(1, 3\), got \(3,\)"):
        net.backward(X)


# --- layers and parameters in lists ---


class Blocks(Layer):
    """Layers in a list, a tuple inside it, and a dictionary; parameters in a list."""

    def __init__(self) -> None:
        self.first = linear(3, 3, 1)
        self.layers = [linear(3, 3, 2), (Tanh(), linear(3, 3, 3))]
        self.heads = {"a": linear(3, 2, 4), "b": linear(3, 1, 5)}
        self.gains = [Parameter(np.ones(3)), Parameter(np.full(3, 2.0))]
        self.sizes = [3, "three", None, {"3": 3}]

    def apply(self, x: Any) -> Any:
        return cc.Sequential(self.first, self.layers[0], *self.layers[1], self.heads["a"]).apply(x)


NAMES = ["gains.0", "gains.1", "first.weight", "first.bias", "layers.0.weight", "layers.0.bias", "layers.1.1.weight",
         "layers.1.1.bias", "heads.a.weight", "heads.a.bias", "heads.b.weight", "heads.b.bias"]  # fmt: skip


def test_layers_in_lists_are_found() -> None:
    net = Blocks()
    assert list(net.parameters()) == NAMES
    assert list(net.children()) == ["first", "layers.0", "layers.1.0", "layers.1.1", "heads.a", "heads.b"]
    assert re.findall(r"\(([\w.]+)\): (\w+)", repr(net))[1] == ("layers.0", "Linear")
    assert [name for name, _ in net.walk("net")][:3] == ["net", "net.first", "net.layers.0"]
    assert set(net.state_dict()) == set(NAMES)
    other = Blocks()
    for p in other.parameters().values():
        p.value = p.value + 1
    net.load_state_dict(other.state_dict())
    for name, p in net.parameters().items():
        np.testing.assert_array_equal(p.value, other.parameters()[name].value)
    assert not net.eval().heads["b"].training and net.train().layers[1][0].training
    assert net.freeze().layers[1][1].frozen


def test_a_list_of_layers_is_trained() -> None:
    class Stack(Layer):
        def __init__(self) -> None:
            self.layers = [Linear(3, 4, seed=0), Tanh(), Linear(4, 2, seed=1)]

        def apply(self, x: Any) -> Any:
            return cc.Sequential(*self.layers).apply(x)

    net = Stack()
    assert cc.gradcheck(net, (X,)).ok and len(cc.gradcheck(net, (X,)).arguments) == 5
    before = {name: p.value.copy() for name, p in net.parameters().items()}
    x, y = X.astype(np.float32), np.arange(5) % 2
    cc.Trainer(net, cc.optim.Adam(net), quiet=True).fit((x, y), epochs=1)
    assert list(before) == ["layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias"]
    assert all(not np.array_equal(p.value, before[name]) for name, p in net.parameters().items())


def test_a_layer_that_stands_in_two_lists_comes_once() -> None:
    net = Blocks()
    net.again = [net.first, net.layers]
    assert list(net.parameters()) == NAMES


def test_layers_without_a_name_are_refused() -> None:
    net = Blocks()
    net.more = {linear(3, 3)}
    with pytest.raises(cc.CnncoreError, match="Blocks: more must be a list: what is in a set has no name"):
        net.parameters()
    net.more = {1: linear(3, 3), "1": linear(3, 3)}
    with pytest.raises(cc.CnncoreError, match=r"Blocks: two of its layers are called more\.1"):
        net.children()
    net.more = {1, 2}
    assert list(net.parameters()) == NAMES
