"""A layer of your own: y and a context whose backward returns dx, then a gradient for each of its parameters."""

import numpy as np

import cnncore as cc


class Square:  # y = (x w)^2, row by row
    def __init__(self, x, w):
        self.x, self.w = x, w

    def backward(self, dy):
        return dy * 2 * self.x * self.w**2, (dy * 2 * self.x**2 * self.w).sum(axis=0)


class SquareLayer(cc.layers.Layer):
    def __init__(self, size):
        self.w = cc.layers.Parameter(np.ones(size, np.float32))

    def apply(self, x):
        return (x * self.w.value) ** 2, Square(x, self.w.value)


net = cc.Sequential(cc.layers.Linear(4, 3), SquareLayer(3), cc.layers.Linear(3, 2))
print(cc.gradcheck(net, (np.random.default_rng(0).standard_normal((5, 4)),)))
