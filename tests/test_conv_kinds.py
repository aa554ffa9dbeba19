"""Factored convolution against the full one it stands for, SVD against its theorem, and mlpconv against its parts."""

from __future__ import annotations

import numpy as np
import pytest

import cnncore as cc
from cnncore import layers as ly
from cnncore.errors import CnncoreError, ShapeError
from cnncore.ops.records import registry

RNG = np.random.default_rng(0)
F64 = {"dtype": np.float64}


def slopes(net, x):
    """Every gradient of a random projection of net(x), and the central differences it must equal."""
    y, ctx = net.apply(x)
    dy, h = RNG.standard_normal(y.shape), 1e-6
    dx = ctx.backward(dy)
    for value, gradient in [(x, dx), *((p.value, p.grad) for p in net.parameters().values())]:
        for at in RNG.permutation(list(np.ndindex(value.shape)))[:20]:
            old, ends = value[tuple(at)], []
            for step in (h, -h):
                value[tuple(at)] = old + step
                ends.append(float((net.apply(x)[0] * dy).sum()))
            value[tuple(at)] = old
            yield gradient[tuple(at)], (ends[0] - ends[1]) / (2 * h)


@pytest.mark.parametrize("rank", [1, 2])
def test_the_factored_layer_is_a_full_convolution(rank):
    layer = ly.FactoredConv2d(3, 5, (3, 2), stride=2, padding=1, rank=rank, seed=1, **F64)
    layer.across.bias.value[:] = RNG.standard_normal(5)
    x = RNG.standard_normal((2, 3, 7, 8))
    want, _ = cc.ops.conv(x, layer.full_weight(), layer.across.bias.value, stride=2, padding=1)
    np.testing.assert_allclose(layer.forward(x), want, rtol=1e-12, atol=1e-12)
    assert list(layer.parameters()) == ["depthwise.weight", "across.weight", "across.bias"]


def test_gradients_of_the_factored_layer():
    layer = ly.FactoredConv2d(2, 3, 3, padding=1, dilation=2, rank=2, seed=1, **F64)
    for got, want in slopes(layer, RNG.standard_normal((2, 2, 6, 6))):
        assert got == pytest.approx(want, rel=1e-6, abs=1e-7)


def test_the_savings_are_those_of_the_ops():
    layer, image = ly.FactoredConv2d(16, 32, 5, stride=2, padding=2), (29, 40)
    full = ly.Conv2d(16, 32, 5, stride=2, padding=2)
    found = layer.savings(image)

    def parameters(net):
        return sum(p.value.size for p in net.parameters().values())

    def flops(conv, x):
        arrays = (x, conv.weight.value, None)
        return registry["conv"].flops(registry["conv"].rule(*arrays, **conv.attrs), arrays)[0]

    x = np.zeros((1, 16, *image), np.float32)
    between = layer.depthwise.forward(x)
    assert (found.parameters, found.full_parameters) == (parameters(layer), parameters(full))
    assert found.flops == flops(layer.depthwise, x) + flops(layer.across, between)
    assert found.full_flops == flops(full, x)
    assert "944 of 12,832 parameters (7.4%)" in str(found)


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (20, 2, 3, 2), (1, 1, 1, 1)])
def test_the_svd_error_is_the_distance(shape):
    """And falls with the rank, to 0 at full rank; beyond that nothing changes."""
    w = RNG.standard_normal(shape)
    full, before = min(shape[0], shape[2] * shape[3]), 1.0
    for rank in range(1, full + 3):
        space, across, error = ly.factor(w, rank)
        assert space.shape == (shape[1] * rank, 1, *shape[2:]) and across.shape == (shape[0], shape[1] * rank, 1, 1)
        back = np.einsum("kcr,crij->kcij", across.reshape(*shape[:2], rank), space.reshape(shape[1], rank, *shape[2:]))
        assert error == pytest.approx(np.linalg.norm(w - back) / np.linalg.norm(w), abs=1e-13)
        assert error <= before
        assert error < 1e-14 or rank < full
        before = error


def test_no_gradient_step_improves_the_svd():
    """Eckart and Young: the distance is smallest there, so small changes of the factors only increase it."""
    w = RNG.standard_normal((6, 2, 3, 3))
    space, across, error = ly.factor(w, 2)
    for _ in range(50):
        a = across + 1e-3 * RNG.standard_normal(across.shape)
        f = space + 1e-3 * RNG.standard_normal(space.shape)
        back = np.einsum("kcr,crij->kcij", a.reshape(6, 2, 2), f.reshape(2, 2, 3, 3))
        assert np.linalg.norm(w - back) / np.linalg.norm(w) >= error


def test_a_planted_rank_is_found():
    planted = ly.FactoredConv2d(3, 8, 3, rank=2, seed=4, **F64)
    assert ly.factor(planted.full_weight(), 2)[2] < 1e-14 < 1e-2 < ly.factor(planted.full_weight(), 1)[2]


@pytest.mark.parametrize("bias", [True, False])
def test_a_trained_layer_can_be_factored(bias):
    conv = ly.Conv2d(3, 6, 3, stride=2, padding=1, bias=bias, seed=5)
    if bias:
        conv.bias.value[:] = RNG.standard_normal(6)
    x = RNG.standard_normal((2, 3, 9, 9)).astype(np.float32)
    layer, error = ly.FactoredConv2d.from_conv(conv, 6)
    assert error < 1e-7
    np.testing.assert_allclose(layer.forward(x), conv.forward(x), rtol=1e-4, atol=1e-5)
    layer, error = ly.FactoredConv2d.from_conv(conv, 1)
    distance = np.linalg.norm(layer.full_weight() - conv.weight.value) / np.linalg.norm(conv.weight.value)
    assert error == pytest.approx(distance, rel=1e-5) and 0.1 < error < 1


def test_what_cannot_be_factored():
    with pytest.raises(CnncoreError, match="groups=1, got groups=2"):
        ly.FactoredConv2d.from_conv(ly.Conv2d(2, 2, 3, groups=2), 1)
    with pytest.raises(ShapeError, match="factor: rank must be at least 1"):
        ly.factor(np.ones((2, 2, 3, 3)), 0)
    with pytest.raises(ShapeError, match="weight must be"):
        ly.factor(np.ones((2, 2, 3)), 1)
    assert ly.factor(np.zeros((2, 2, 3, 3)), 1)[2] == 0
    with pytest.raises(ShapeError, match="FactoredConv2d: rank must be at least 1"):
        ly.FactoredConv2d(2, 2, 3, rank=0)


@pytest.mark.parametrize(("kind", "shape"), [
    (ly.MLPConv1d, (2, 2, 7)), (ly.MLPConv2d, (2, 2, 5, 6)), (ly.MLPConv3d, (1, 2, 3, 4, 3)),
])  # fmt: skip
def test_mlpconv_is_three_convolutions(kind, shape):
    net = kind(2, (5, 4, 3), 3, padding=1, seed=1, **F64)
    for p in net.parameters().values():
        p.value += 0.1 * RNG.standard_normal(p.value.shape)
    assert list(net.parameters()) == [f"{i}.{name}" for i in (0, 2, 4) for name in ("weight", "bias")]
    x = RNG.standard_normal(shape)
    h = x
    for i, padding in ((0, 1), (2, 0), (4, 0)):
        h = np.maximum(cc.ops.conv(h, net[i].weight.value, net[i].bias.value, padding=padding)[0], 0)
    np.testing.assert_array_equal(net.forward(x), h)
    for got, want in slopes(net, x):
        assert got == pytest.approx(want, rel=1e-5, abs=1e-6)


def test_mlpconv_needs_three_numbers_of_maps():
    with pytest.raises(ShapeError, match="MLPConv2d: channels must be three integers, got 5"):
        ly.MLPConv2d(3, 5, 3)
