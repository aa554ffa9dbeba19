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
    "alexnet": (60_965_224, (3, 227, 227), 2),
}


def parameters(net):
    return sum(math.prod(p.value.shape) for p in net.parameters().values())


@pytest.mark.parametrize("name", SIZES)
def test_parameters_and_learning(name):
    """A few steps on one batch of noise lower its loss: every layer hands its gradient on."""
    count, image, batch = SIZES[name]
    net = getattr(cc.models, name)(seed=1)
    assert parameters(net) == count
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


def test_pooling_is_an_option():
    x = np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)
    outputs = [cc.models.cuda_convnet(pools=(p, p, p)).apply(x)[0] for p in ("max", "avg")]
    assert not np.allclose(*outputs)
    for name, wrong in (
        ("cuda_convnet", {"pools": ("max", "avg", "x")}),
        ("lenet", {"pool": "x"}),
        ("alexnet", {"pool": 3}),
    ):
        with pytest.raises(cc.CnncoreError, match=f"{name}: pool must be one of"):
            getattr(cc.models, name)(**wrong)
