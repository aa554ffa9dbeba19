"""The summary against counts made by hand."""

import numpy as np

import cnncore as cc
from cnncore import layers as ly


def test_lenet_by_hand(capsys):
    found = cc.models.summary(cc.models.lenet(), (2, 1, 28, 28))
    printed = capsys.readouterr().out
    rows = {row.name: row for row in found.rows}
    assert rows["0 Conv2d"].shape == (2, 32, 28, 28)
    assert rows["0 Conv2d"].parameters == 32 * 25 + 32
    assert rows["3 Conv2d"].flops == 2 * (2 * 64 * 14 * 14) * (32 * 25)
    assert rows["3 Conv2d"].bytes == 4 * 2 * 64 * 14 * 14
    assert rows["7 Linear"].flops == 2 * 2 * 3136 * 512
    assert rows["9 Dropout"].bytes == 0  # the identity: nothing is drawn or kept in evaluation mode
    assert found.parameters == 832 + 51264 + 1606144 + 5130 == 1663370
    assert "1,663,370" in printed and "2x32x28x28" in printed and str(found) in printed


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
