"""Layers: their gradients against central differences of the whole network, sharing, modes, state, first weights."""

import weakref

import numpy as np
import pytest

import cnncore as cc
from cnncore import layers as ly
from cnncore.backends import select
from cnncore.backends.device import to_host
from cnncore.errors import CnncoreError, ShapeError

AVAILABLE = [name for name in ("numpy", "c") if select.why_not(name) is None]
RNG = np.random.default_rng(0)
F64 = {"dtype": np.float64}


def nets():
    """One small float64 network per kind of layer, with an input; every parameter is away from 0."""
    conv = ly.Conv2d(2, 3, 3, padding=1, seed=1, **F64)
    return {
        "conv1d": (ly.Sequential(ly.Conv1d(2, 4, 3, stride=2, groups=2, seed=1, **F64), ly.ReLU()), (2, 2, 8)),
        "conv2d": (ly.Conv2d(3, 2, (2, 3), padding=((1, 0), (0, 2)), dilation=(1, 2), seed=1, **F64), (2, 3, 4, 6)),
        "conv3d": (ly.Conv3d(1, 2, 2, bias=False, seed=1, **F64), (1, 1, 3, 3, 3)),
        "pools1d": (ly.Sequential(ly.AvgPool1d(2), ly.MaxPool1d(2, 1)), (2, 2, 8)),
        "pools2d": (
            ly.Sequential(ly.MaxPool2d(3, 2, 1), ly.AvgPool2d(2, padding=1, count_include_pad=True)), (1, 2, 6, 6)
        ),
        "pools3d": (ly.Sequential(ly.AvgPool3d(2, ceil_mode=True), ly.MaxPool3d(2, dilation=1)), (1, 1, 5, 4, 4)),
        "lenet": (
            ly.Sequential(
                conv, ly.ReLU(), ly.MaxPool2d(2), ly.Flatten(), ly.Linear(12, 5, seed=2, **F64), ly.ReLU(),
                ly.Dropout(0.4, seed=3), ly.Linear(5, 4, init="xavier", seed=4, **F64),
            ),
            (3, 2, 4, 4),
        ),
        "branches": (
            ly.Sequential(
                ly.Branches(conv, ly.Conv2d(2, 1, 1, seed=5, **F64), ly.Sequential(ly.ReLU(), conv)),
                ly.Branches(ly.Conv2d(7, 7, 3, padding=1, seed=6, **F64), ly.Sequential(), join="add"),
            ),
            (2, 2, 4, 4),
        ),
    }  # fmt: skip


def sum_of_product(net, state, x, dy):
    """sum(dy * net(x)), always with the random keys of `state`."""
    for name, layer in net.walk():
        if isinstance(layer, ly.Dropout):
            layer.key = state[name]
    return float((net.apply(x)[0] * dy).sum())


@pytest.mark.parametrize("name", nets())
def test_gradients_are_the_slopes_of_the_whole_network(name):
    net, shape = nets()[name]
    x = RNG.standard_normal(shape)
    for parameter in net.parameters().values():
        parameter.value += 0.1 * RNG.standard_normal(parameter.value.shape)
    keys = {path: layer.key for path, layer in net.walk() if isinstance(layer, ly.Dropout)}
    y, ctx = net.apply(x)
    dy = RNG.standard_normal(y.shape)
    dx = ctx.backward(dy)
    pairs = [(x, dx)] + [(p.value, p.grad) for p in net.parameters().values()]
    h = 1e-6
    for value, gradient in pairs:
        assert gradient.shape == value.shape
        for at in np.ndindex(value.shape):
            old = value[at]
            value[at] = old + h
            above = sum_of_product(net, keys, x, dy)
            value[at] = old - h
            below = sum_of_product(net, keys, x, dy)
            value[at] = old
            assert gradient[at] == pytest.approx((above - below) / (2 * h), rel=1e-6, abs=1e-7), (name, at)


@pytest.mark.parametrize("backend", AVAILABLE)
def test_a_network_is_the_same_on_every_backend(backend):
    results = {}
    for who in ("numpy", backend):
        net, shape = nets()["lenet"]
        x = np.random.default_rng(1).standard_normal(shape)
        with cc.use_backend(who):
            y = net.forward(x)
            dx = net.backward(np.ones(y.shape))
        gradients = {name: to_host(p.grad) for name, p in net.parameters().items()}
        results[who] = {"y": to_host(y), "dx": to_host(dx), **gradients}
    for name, expected in results["numpy"].items():
        np.testing.assert_allclose(results[backend][name], expected, rtol=1e-12, atol=1e-12, err_msg=name)


def test_a_shared_layer_is_one_set_of_parameters_whose_gradients_add():
    shared = ly.Linear(4, 4, seed=1, **F64)
    one, two = ly.Linear(4, 4, seed=1, **F64), ly.Linear(4, 4, seed=1, **F64)
    tied, apart = ly.Sequential(shared, ly.ReLU(), shared), ly.Sequential(one, ly.ReLU(), two)
    assert list(tied.parameters()) == ["0.weight", "0.bias"] == list(tied.state_dict())
    x, dy = RNG.standard_normal((3, 4)), RNG.standard_normal((3, 4))
    np.testing.assert_array_equal(tied.forward(x), apart.forward(x))
    np.testing.assert_array_equal(tied.backward(dy), apart.backward(dy))
    np.testing.assert_allclose(shared.weight.grad, one.weight.grad + two.weight.grad, rtol=1e-14)
    np.testing.assert_allclose(shared.bias.grad, one.bias.grad + two.bias.grad, rtol=1e-14)


def test_two_layers_may_hold_one_parameter():
    one, two = ly.Linear(4, 4, seed=1, **F64), ly.Linear(4, 4, seed=2, **F64)
    two.weight = one.weight
    net = ly.Sequential(one, two)
    assert list(net.parameters()) == ["0.weight", "0.bias", "1.bias"]
    x = RNG.standard_normal((3, 4))
    net.forward(x)
    net.backward(np.ones((3, 4)))
    above = np.ones((3, 4)) @ one.weight.value  # by hand, for y = (x w^T + b) w^T + c
    expected = above.T @ x + np.ones((4, 3)) @ (x @ one.weight.value.T)
    np.testing.assert_allclose(one.weight.grad, expected, rtol=1e-12)


def test_contexts_of_two_calls_do_not_meet():
    net, shape = nets()["branches"]
    a, b = RNG.standard_normal(shape), RNG.standard_normal(shape)
    alone = {}
    for x in (a, b):
        y, ctx = net.apply(x)
        alone[id(x)] = ctx.backward(np.ones(y.shape))
    y, first = net.apply(a)
    _, second = net.apply(b)
    np.testing.assert_array_equal(first.backward(np.ones(y.shape)), alone[id(a)])
    np.testing.assert_array_equal(second.backward(np.ones(y.shape)), alone[id(b)])


def test_backward_adds_and_zero_grad_clears():
    net = ly.Linear(3, 2, seed=0)
    x, dy = np.ones((4, 3), np.float32), np.ones((4, 2), np.float32)
    assert net.weight.grad is None
    net.forward(x)
    net.backward(dy)
    once = net.weight.grad.copy()
    net.backward(dy)
    np.testing.assert_array_equal(net.weight.grad, 2 * once)
    net.zero_grad()
    assert net.weight.grad is None and net.bias.grad is None


@pytest.mark.parametrize("name", nets())
@pytest.mark.parametrize("dx", [True, False])
def test_the_last_backward_gives_what_any_other_gives(name, dx):
    net, shape = nets()[name]
    y, ctx = net.apply(RNG.standard_normal(shape))
    dy = RNG.standard_normal(y.shape)
    results = []
    for last in (False, True):
        net.zero_grad()
        results.append([ctx.backward(dy, dx=dx, last=last), *(p.grad for p in net.parameters().values())])
    for expected, found in zip(*results, strict=True):
        np.testing.assert_array_equal(found, expected)
    if isinstance(net, ly.Sequential):
        with pytest.raises(CnncoreError, match="used up"):
            ctx.backward(dy)


@pytest.mark.parametrize("last", [False, True])
def test_the_last_backward_lets_contexts_go_as_it_proceeds(last):
    alive, made = [], []

    class Kept:
        learns = False

        def backward(self, dy, dx=True, spare=False, last=False):
            alive.append(sum(ref() is not None for ref in made))
            return dy

    class Keeps(ly.Layer):
        def apply(self, x):
            context = Kept()
            made.append(weakref.ref(context))
            return x, context

    net = ly.Sequential(Keeps(), ly.Branches(ly.Sequential(Keeps(), Keeps())), Keeps())
    y, ctx = net.apply(np.zeros((1, 1, 2)))
    ctx.backward(y, last=last)
    assert alive == ([4, 3, 2, 1] if last else [4, 4, 4, 4])


def test_dx_is_not_computed_where_nobody_wants_it(monkeypatch):
    asked = []
    true_backward = select.NumPyBackend.backward

    def spy(self, plan, needs, dy, saved, spare):
        asked.append((plan.op.name, needs))
        return true_backward(self, plan, needs, dy, saved, spare)

    monkeypatch.setattr(select.NumPyBackend, "backward", spy)
    net = ly.Sequential(
        ly.ReLU(), ly.Branches(ly.Conv2d(1, 2, 3, seed=0), ly.MaxPool2d(3, 1)), ly.ReLU(), ly.Flatten(),
        ly.Linear(12, 2, seed=0),
    )  # fmt: skip
    x = RNG.standard_normal((2, 1, 4, 4)).astype(np.float32)
    dy = np.ones((2, 2), np.float32)
    with cc.use_backend("numpy"):
        net.forward(x)
        assert net.backward(dy, dx=False) is None
        # Backwards: the pool beside the convolution, the ReLU before both and the convolution's dx are all left out.
        assert asked == [
            ("linear", (True, True, True)), ("relu", (True,)), ("concat", (True, False)), ("conv", (False, True, True)),
        ]  # fmt: skip
        without = {name: p.grad for name, p in net.parameters().items()}
        net.zero_grad()
        assert net.backward(dy).shape == x.shape
    for name, parameter in net.parameters().items():
        np.testing.assert_array_equal(parameter.grad, without[name])


def test_frozen_networks_give_dx_alone_until_trained_again():
    net, shape = nets()["lenet"]
    x = RNG.standard_normal(shape)
    y = net.eval().forward(x)
    dx = net.backward(np.ones(y.shape))
    net.freeze()
    assert all(p.grad is None for p in net.parameters().values())
    np.testing.assert_array_equal(net.forward(x), y)
    np.testing.assert_array_equal(net.backward(np.ones(y.shape)), dx)
    assert net.backward(np.ones(y.shape), dx=False) is None
    assert all(p.grad is None for p in net.parameters().values())
    net.train().forward(x)
    net.backward(np.ones(y.shape))
    assert all(p.grad is not None for p in net.parameters().values())


def test_dropout_draws_from_its_key_and_counts_it_up():
    layer = ly.Dropout(0.3, seed=7)
    x = RNG.standard_normal((5, 6))
    for counter in range(3):
        assert layer.key == (7, counter)
        np.testing.assert_array_equal(layer.forward(x), cc.ops.dropout(x, (7, counter), p=0.3)[0])
    layer.eval()
    np.testing.assert_array_equal(layer.forward(x), x)
    np.testing.assert_array_equal(layer.backward(x), x)
    assert layer.key == (7, 3)


def test_dropout_of_maps():
    x = RNG.standard_normal((6, 7, 4, 5))
    layer = ly.Dropout2d(0.4, seed=3)
    y = layer.forward(x)
    np.testing.assert_array_equal(y, cc.ops.dropout(x, (3, 0), p=0.4, per="map")[0])
    kept = (y != 0).all(axis=(2, 3))
    assert 0 < kept.sum() < kept.size and not y[~kept].any() and layer.key == (3, 1)
    np.testing.assert_array_equal(layer.backward(y != 0, dx=False), None)
    np.testing.assert_array_equal(layer.eval().forward(x), x)
    with pytest.raises(ShapeError, match="Dropout2d: x must be"):
        layer.forward(x[0])
    assert repr(layer) == "Dropout2d(p=0.4)"


def test_activation_layers():
    x = RNG.standard_normal((2, 3, 4))
    for layer, op in ((ly.ReLU(), cc.ops.relu), (ly.Sigmoid(), cc.ops.sigmoid), (ly.Tanh(), cc.ops.tanh),
                      (ly.Softmax(), cc.ops.softmax)):  # fmt: skip
        y, call = op(x)
        np.testing.assert_array_equal(layer.forward(x), y)
        np.testing.assert_array_equal(layer.backward(x), call.backward(x)[0])


def test_modes_reach_every_layer():
    net, _ = nets()["branches"]
    inside = [layer for _, layer in net.walk()]
    assert len(inside) == 9
    assert all(layer.training for layer in inside)
    assert net.eval() is net and not any(layer.training for layer in inside)
    assert net.train() is net and all(layer.training for layer in inside)


# --- containers, names, errors ---


def test_parts_of_a_network_are_found_by_attribute():
    class Twice(ly.Layer):
        def __init__(self):
            self.body = ly.Linear(2, 2, seed=0)
            self.scale = ly.Parameter(np.ones(1))

        def apply(self, x):
            return ly.Sequential(self.body, self.body).apply(x)

    net = ly.Sequential(ly.ReLU(), Twice())
    assert list(net.parameters()) == ["1.scale", "1.body.weight", "1.body.bias"]
    assert [name for name, _ in net.walk()] == ["", "0", "1", "1.body"]


def test_branches_join_by_channels_or_sum():
    x = RNG.standard_normal((2, 3, 4))
    relu, pool = ly.ReLU(), ly.MaxPool1d(3, 1, padding=1)
    a, b = relu.forward(x), pool.forward(x)
    np.testing.assert_array_equal(ly.Branches(relu, pool).forward(x), np.concatenate([a, b], axis=1))
    np.testing.assert_array_equal(ly.Branches(relu, pool, join="add").forward(x), a + b)


def test_an_empty_sequential_is_the_identity():
    x = RNG.standard_normal((2, 3))
    y, ctx = ly.Sequential().apply(x)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(ctx.backward(2 * x), 2 * x)
    assert ctx.backward(x, dx=False) is None


def test_an_empty_batch_goes_through():
    net = cc.models.lenet()
    y = net.forward(np.zeros((0, 1, 28, 28), np.float32))
    assert y.shape == (0, 10)
    assert net.backward(y).shape == (0, 1, 28, 28)
    assert not any(p.grad.any() for p in net.parameters().values())


def test_repr_reads_like_the_call():
    net = ly.Sequential(
        ly.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False),
        ly.Branches(ly.AvgPool2d((2, 3), ceil_mode=True), ly.MaxPool2d(2, 1), join="add"),
        ly.Dropout(0.25),
        ly.Linear(3, 2),
    )
    assert repr(net) == (
        "Sequential(\n"
        "  (0): Conv2d(4, 6, kernel_size=(3, 3), stride=2, padding=1, groups=2, bias=False)\n"
        "  (1): Branches(join='add'\n"
        "    (0): AvgPool2d(kernel_size=(2, 3), stride=(2, 3), ceil_mode=True)\n"
        "    (1): MaxPool2d(kernel_size=2, stride=1)\n"
        "  )\n"
        "  (2): Dropout(p=0.25)\n"
        "  (3): Linear(3, 2)\n"
        ")"
    )
    assert len(net) == 4 and net[3] is net.children()["3"]


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: ly.Conv2d(0, 1, 3), cc.ShapeError, "Conv2d: in_channels must be at least 1"),
        (lambda: ly.Conv2d(3, 4, 3, groups=2), cc.ShapeError, "multiples of groups"),
        (lambda: ly.Conv1d(1, 1, (3, 3)), cc.ShapeError, "Conv1d: kernel_size must have one integer per spatial axis"),
        (lambda: ly.Conv2d(1, 1, 3, dtype=np.int32), cc.DTypeError, "dtype must be float32 or float64"),
        (lambda: ly.Conv2d(1, 1, 3, init="zero"), cc.CnncoreError, "init must be one of he, xavier"),
        (lambda: ly.Conv2d(2**30, 2**30, 3), cc.ShapeError, "too many elements"),
        (lambda: ly.Linear(2.0, 1), cc.ShapeError, "in_features must be an integer"),
        (lambda: ly.Linear(2, 1, seed=-1), cc.CnncoreError, "random key"),
        (lambda: ly.Dropout(1.0), cc.CnncoreError, "0 <= p < 1"),
        (lambda: ly.Dropout(float("nan")), cc.CnncoreError, "0 <= p < 1"),
        (lambda: ly.Sequential(ly.ReLU(), np.tanh), cc.CnncoreError, "Sequential: argument 1 must be a layer"),
        (lambda: ly.Branches(), cc.CnncoreError, "at least one path"),
        (lambda: ly.Branches(ly.ReLU(), join="mean"), cc.CnncoreError, "join must be one of concat, add"),
        (lambda: ly.ReLU().backward(np.ones(1)), cc.CnncoreError, "needs a forward before it"),
        (lambda: ly.MaxPool2d(2).forward(np.ones((1, 1, 4))), cc.ShapeError, "MaxPool2d: x must be (N, C, *S) with 2"),
        (lambda: ly.Conv1d(1, 1, 1).forward([1.0]), cc.ShapeError, "Conv1d: x must be (N, C, *S) with 1 spatial"),
        (lambda: ly.Flatten().forward(np.ones(3)), cc.ShapeError, "Flatten: x must be (N, ...)"),
        (lambda: cc.models.lenet(pool="median"), cc.CnncoreError, "lenet: pool must be one of max, avg"),
    ],
)
def test_wrong_use_says_what_is_wrong(make, error, text):
    with pytest.raises(error) as caught:
        make()
    assert text in str(caught.value)


def test_an_error_inside_a_network_names_the_layer():
    net = ly.Sequential(ly.Flatten(), ly.Sequential(ly.Linear(4, 2), ly.Linear(3, 2)))
    with pytest.raises(cc.ShapeError) as caught:
        net.forward(np.ones((1, 4), np.float32))
    assert [note.split(",")[0] for note in caught.value.__notes__] == ["in layer 1.1"]


def test_lenet_is_made_as_documented():
    net = cc.models.lenet(pool="avg", seed=1)
    assert sum(p.value.size for p in net.parameters().values()) == 1_663_370
    assert "AvgPool2d" in repr(net) and "MaxPool2d" not in repr(net)
    same, other = cc.models.lenet(seed=1).state_dict(), cc.models.lenet(seed=2).state_dict()
    for name, a in net.state_dict().items():
        np.testing.assert_array_equal(a, same[name])
        assert "bias" in name or (a != other[name]).any()


def test_a_layer_without_its_number_of_axes_says_how_it_is_called() -> None:
    with pytest.raises(
        CnncoreError, match="Conv: the number of axes is part of the name: use Conv1d, Conv2d or Conv3d"
    ):
        ly.Conv(1, 3, 3)
    with pytest.raises(CnncoreError, match="use MaxPool1d, MaxPool2d or MaxPool3d"):
        ly.MaxPool(2).forward(np.zeros((1, 1, 4, 4)))
    assert ly.Conv2d(1, 3, 3).rank == 2
