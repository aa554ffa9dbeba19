"""Every network: its size by hand, its shapes, and that it learns."""

import math

import numpy as np
import pytest

import cnncore as cc
from cnncore.ops import softmax_cross_entropy
from cnncore.optim import SGD
from cnncore.train import evaluating

#       network, its parameters counted by hand, image, batch
SIZES = {
    "lenet": (1_663_370, (1, 28, 28), 8),
    "cuda_convnet": (3 * 32 * 25 + 32 + 32 * 32 * 25 + 32 + 32 * 64 * 25 + 64 + 1024 * 10 + 10, (3, 32, 32), 8),
    "maxout_net": (96 * 64 + 96 + 48 * 96 * 64 + 96 + 48 * 96 * 25 + 96 + 216 * 10 + 10, (1, 28, 28), 4),
    "deep_maxout": (48 * 9 + 48 + 6 * (24 * 48 * 9 + 48) + 24 * 49 * 10 + 10, (1, 28, 28), 8),
    "zeiler_fergus": (3 * 64 * 25 + 64 + 2 * (64 * 64 * 25 + 64) + 64 * 16 * 10 + 10, (3, 32, 32), 8),
    "network_in_network": (
        3 * 192 * 25 + 192 + 192 * 160 + 160 + 160 * 96 + 96
        + 96 * 192 * 25 + 192 + 2 * (192 * 192 + 192)
        + 192 * 192 * 9 + 192 + 192 * 192 + 192 + 192 * 10 + 10,
        (3, 32, 32), 4,
    ),
    "sermanet": (
        3 * 16 * 25 + 16 + 16 * 512 * 49 + 512 + (512 * 16 + 16 * 49) * 20 + 20 + 20 * 10 + 10, (3, 32, 32), 8
    ),
    "any_size": (32 * 25 + 32 + 32 * 64 * 9 + 64 + 64 * 128 * 9 + 128 + 128 * 10 + 10, (1, 28, 28), 8),
    "alexnet": (60_965_224, (3, 227, 227), 2),
}  # fmt: skip


def parameters(net):
    return sum(math.prod(p.value.shape) for p in net.parameters().values())


@pytest.mark.parametrize("name", SIZES)
def test_parameters_and_learning(name):
    """A few steps on one batch of noise lower its loss: every layer hands its gradient on."""
    count, image, batch = SIZES[name]
    net = getattr(cc.models, name)(seed=1)
    assert parameters(net) == count and (count >= 1e6 or f"{count:,} parameters" in getattr(cc.models, name).__doc__)
    rng = np.random.default_rng(0)
    x = rng.random((batch, *image), dtype=np.float32)
    y = rng.integers(0, 10, batch)
    optimizer = SGD(net, lr=0.003, momentum=0.5)

    def loss():
        with evaluating(net):
            return float(softmax_cross_entropy(net.apply(x)[0], y)[0])

    before = loss()
    for _ in range(2 if name == "alexnet" else 5):
        outputs, context = net.apply(x)
        assert outputs.shape == (batch, 1000 if name == "alexnet" else 10)
        net.zero_grad()
        context.backward(softmax_cross_entropy(outputs, y)[1].backward()[0], dx=False)
        assert all(np.abs(p.grad).max() > 0 for p in net.parameters().values())
        optimizer.step()
    assert loss() < before


# --- pooling ---

POOLS = ["max", "avg", "lp", "lp4", "gaussian_lp3", "stochastic", "expectation2", "entropy", "max+avg", "max+lp3+avg"]


@pytest.mark.parametrize("name", cc.models.DIGITS)
def test_every_network_takes_every_pooling(name):
    """And starts from the same weights with each, so that they can be compared."""
    x = np.random.default_rng(0).random((2, 1, 28, 28), dtype=np.float32)
    weights, outputs = [], []
    for pool in POOLS:
        net = getattr(cc.models, name)(pool=pool, seed=3, **cc.models.DIGITS[name])
        weights.append({key: p.value for key, p in net.parameters().items()})
        y = net.eval().forward(x)
        assert y.shape == (2, 10) and np.isfinite(y).all()
        outputs.append(y)
    assert len({y.tobytes() for y in outputs}) == len(POOLS)
    for own in weights[1:]:
        assert all(np.array_equal(a, own[key]) for key, a in weights[0].items())
    found = cc.models.summary(net, (2, 1, 28, 28))
    assert found.parameters == parameters(net) and "HeteroPool2d" in str(found)


def test_stages_may_differ_in_their_pooling():
    net = cc.models.lenet(pool=["stochastic", "max+avg"])
    assert "StochasticPool2d" in repr(net[2]) and "HeteroPool2d" in repr(net[5])
    both = cc.models.lenet(pool="stochastic")
    assert both[2].key[0] != both[5].key[0]


@pytest.mark.parametrize("name", [*cc.models.DIGITS, "cuda_convnet", "alexnet"])
def test_wrong_pooling_says_what_is_right(name):
    network = getattr(cc.models, name)
    for wrong in ("x", "max+x", 3, None, ""):
        with pytest.raises(cc.CnncoreError, match=f"^{name}: pool must be one of max, avg, lp, "):
            network(pool=wrong)
    with pytest.raises(cc.CnncoreError, match=f"^{name}: pool must be one name or a list of [23], one for each stage"):
        network(pool=["max"])


@pytest.mark.parametrize("seed", range(4))
def test_network_in_network_is_born_with_every_class_alive(seed):
    """A class whose map is 0 everywhere, behind its ReLU, would never learn: with biases of 0 that happened."""
    (digits, _), _ = cc.data.mnist10k()
    with evaluating(net := cc.models.network_in_network(channels=1, seed=seed)):
        logits, _ = net.apply(digits[:16])
    assert (logits.max(axis=0) > 0).all() and (logits > 0).mean() > 0.9


# --- any size ---


@pytest.mark.parametrize("size", [(28, 28), (20, 45), (64, 17)])
@pytest.mark.parametrize("name", ["any_size", "network_in_network"])
def test_images_of_any_size(name, size):
    x = np.random.default_rng(0).random((2, 1, *size), dtype=np.float32)
    y = getattr(cc.models, name)(channels=1).forward(x)
    assert y.shape == (2, 10)


def test_any_size_learns_from_images_of_several_sizes():
    """One network, batches of three shapes in turn; its loss falls on each."""
    rng = np.random.default_rng(0)
    batches = [(rng.random((4, 1, *size), dtype=np.float32), rng.integers(0, 10, 4)) for size in
               ((28, 28), (20, 45), (64, 17))]  # fmt: skip
    net = cc.models.any_size(seed=1)
    optimizer = SGD(net, lr=0.01, momentum=0.5)
    losses = []
    for _ in range(8):
        for x, y in batches:
            loss, call = softmax_cross_entropy(net.forward(x), y)
            net.zero_grad()
            net.backward(call.backward()[0], dx=False)
            optimizer.step()
            losses.append(float(loss))
    assert all(last < first for first, last in zip(losses[:3], losses[-3:], strict=True))


@pytest.mark.parametrize("pool", ["max", "avg", "lp3"])
def test_any_size_does_not_see_where_a_picture_stands(pool):
    """A picture amid zeros, with biases away from 0: moved by multiples of the stride, and with more zeros around."""
    rng = np.random.default_rng(0)
    net = cc.models.any_size(pool=pool, seed=1, dtype=np.float64)
    for p in net.parameters().values():
        p.value += 0.05 * rng.standard_normal(p.value.shape)
    picture = rng.random((1, 1, 11, 14))

    def logits(height, width, top, left):
        x = np.zeros((1, 1, height, width))
        x[:, :, top : top + 11, left : left + 14] = picture
        return net.forward(x)

    here = logits(56, 56, 20, 20)
    for other in (logits(56, 56, 24, 20), logits(56, 60, 20, 24), logits(80, 64, 40, 28)):
        np.testing.assert_allclose(other, here, rtol=1e-12)
    assert not np.allclose(logits(56, 56, 21, 20), here, rtol=1e-6)  # a move that is no multiple of the stride


# --- options of single networks ---


def test_sermanet_in_one_stage_and_small():
    net = cc.models.sermanet(multi_stage=False, maps=(4, 8), hidden=6, image=(1, 28, 28), seed=1)
    assert parameters(net) == 4 * 25 + 4 + 4 * 8 * 49 + 8 + 8 * 9 * 6 + 6 + 60 + 10
    multi = cc.models.sermanet(maps=(4, 8), hidden=6, image=(1, 28, 28), seed=1)
    assert parameters(multi) == parameters(net) + 4 * 36 * 6
    assert repr(net).count("ContrastNorm") == 2 and repr(multi).count("ContrastNorm") == 3
    assert "ContrastNorm" not in repr(cc.models.sermanet(contrast=False, maps=(4, 8)))
    odd = cc.models.sermanet(image=(2, 33, 26), maps=(4, 8))
    assert odd.forward(np.zeros((1, 2, 33, 26), np.float32)).shape == (1, 10)


def test_deep_maxout_of_other_depths():
    x = np.zeros((2, 1, 28, 28), np.float32)
    for layers in (2, 7, 9):
        net = cc.models.deep_maxout(layers=layers, maps=4, pieces=3)
        assert net.forward(x).shape == (2, 10)
        assert sum(isinstance(layer, cc.layers.Maxout2d) for _, layer in net.walk()) == layers
