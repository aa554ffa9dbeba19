"""The summary against counts made by hand."""

from xml.etree import ElementTree

import numpy as np
import pytest
from engines import NATIVE

import cnncore as cc
from cnncore import layers as ly
from cnncore.backends.memory import POOL
from cnncore.loader import channels_last


def test_lenet_by_hand(capsys):
    found = cc.models.summary(cc.models.lenet(), (2, 1, 28, 28))
    assert capsys.readouterr().out == ""
    print(found)
    printed = capsys.readouterr().out
    rows = {row.name: row for row in found.rows}
    assert rows["0 Conv2d"].shape == (2, 32, 28, 28)
    assert rows["0 Conv2d"].parameters == 32 * 25 + 32
    assert rows["3 Conv2d"].flops == 2 * (2 * 64 * 14 * 14) * (32 * 25)
    assert rows["3 Conv2d"].bytes == 4 * 2 * 64 * 14 * 14
    assert rows["7 Linear"].flops == 2 * 2 * 3136 * 512
    assert rows["9 Dropout"].bytes == 0  # the identity: nothing is drawn or kept in evaluation mode
    assert found.parameters == 832 + 51264 + 1606144 + 5130 == 1663370
    assert "1,663,370" in printed and "2x32x28x28" in printed and printed == f"{found}\n" == f"{found!r}\n"
    assert printed.count("parameters") == 1


def test_a_notebook_shows_a_table():
    found = cc.models.summary(cc.Sequential(ly.Flatten(), ly.Linear(12, 5)), (2, 3, 4))
    table = ElementTree.fromstring(f"<div>{found._repr_html_()}</div>")
    lines = [["".join(cell.itertext()) for cell in row] for row in table.iter("tr")]
    assert lines[0] == ["layer", "output", "parameters", "FLOPs", "activation bytes"]
    assert lines[2] == ["1 Linear", "2x5", "65", "240", "40"] and lines[3][:3] == ["total", "", "65"]


def test_branches_and_shared_layers(capsys):
    shared = ly.Conv2d(2, 2, 3, padding=1, dtype=np.float64)
    net = ly.Sequential(
        ly.Branches(shared, ly.Sequential(shared, ly.ReLU()), join="concat"), ly.Conv2d(4, 1, 1, dtype=np.float64)
    )
    net.train()
    found = cc.models.summary(net, (1, 2, 5, 5))
    assert [row.name for row in found.rows] == [
        "0.0 Conv2d", "0.1.0 Conv2d", "0.1.1 ReLU", "0 concat", "1 Conv2d",
    ]  # fmt: skip
    assert [row.parameters for row in found.rows] == [38, 0, 0, 0, 5]
    assert found.parameters == 43 and found.rows[3].shape == (1, 4, 5, 5)
    assert net.training and found.rows[4].bytes == 8 * 25


NEEDS_C = pytest.mark.skipif(not NATIVE, reason="the C kernels are not built")
NETS = {
    "lenet": (cc.models.lenet, (64, 1, 28, 28)),
    "nin": (cc.models.network_in_network, (8, 3, 32, 32)),
    "maxout": (cc.models.maxout_net, (8, 1, 28, 28)),
    "zeiler_fergus": (cc.models.zeiler_fergus, (8, 3, 32, 32)),
}


@NEEDS_C
@pytest.mark.parametrize("name", NETS)
def test_the_memory_is_what_the_pool_holds_in_a_training_step_and_in_inference(name):
    build, shape = NETS[name]
    net = build()
    found = cc.models.summary(net, shape).memory
    x, labels = channels_last(np.random.default_rng(0).random(shape, np.float32)), np.arange(shape[0]) % 10
    optimizer = cc.optim.SGD(net, lr=0.01, momentum=0.9)
    for _ in range(2):
        net.zero_grad()
        before = POOL.watch()
        y, ctx = net.apply(x)
        kept = POOL.used - before
        _, loss = cc.ops.softmax_cross_entropy(y, labels)
        ctx.backward(loss.backward()[0], dx=False, last=True)
        optimizer.step()
        most = POOL.mark - before
        assert kept == found.kept
        assert found.training <= most <= found.training + 4 * y.nbytes  # the loss has arrays, too
    del y, ctx, loss
    net.zero_grad()
    before = POOL.watch()
    net.eval().apply(x)
    assert POOL.mark - before == found.inference < found.training


@NEEDS_C
def test_what_lenet_keeps_by_hand():
    n = 128
    maps = 2 * 32 * 14 * 14 + 64 * 7 * 7  # of both stages the winners, and of the first the maps: its results
    rows = 64 * 7 * 7 + 512 + 512 + 10  # the second's, flattened; hidden, before and behind dropout; y
    mask = n * 512
    assert cc.models.summary(cc.models.lenet(), (n, 1, 28, 28)).memory.kept == 4 * n * (maps + rows) + mask


@NEEDS_C
def test_a_summary_leaves_the_network_as_it_was():
    net = cc.models.lenet().train()
    net[0].frozen = True
    for parameter in net.parameters().values():
        parameter.grad = np.ones_like(parameter.value)
    state, modes = net.state_dict(), [(layer.training, layer.frozen) for _, layer in net.walk()]
    cc.models.summary(net, (2, 1, 28, 28))
    assert modes == [(layer.training, layer.frozen) for _, layer in net.walk()]
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value, state[name])
    assert all((p.grad == 1).all() for p in net.parameters().values())


def test_there_is_no_pool_without_the_c_kernels():
    with cc.use_backend("numpy"):
        found = cc.models.summary(cc.models.lenet(), (1, 1, 28, 28))
    assert found.memory is None and "memory" not in f"{found}{found._repr_html_()}"
