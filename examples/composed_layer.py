"""A layer made of layers: it puts their contexts together and needs no backward of its own."""

import numpy as np

import cnncore as cc
from cnncore.layers import Chain, Join


class Residual(cc.layers.Layer):  # y = x + relu(conv(x))
    def __init__(self, maps):
        self.conv = cc.layers.Conv2d(maps, maps, 3, padding=1, seed=0)
        self.relu = cc.layers.ReLU()

    def apply(self, x):
        h, first = self.conv.apply(x)
        h, second = self.relu.apply(h)
        y, call = cc.ops.add(x, h)
        return y, Join([Chain(), Chain(first, second)], call)


print(cc.gradcheck(Residual(2), (np.random.default_rng(0).standard_normal((1, 2, 5, 5)),)))
