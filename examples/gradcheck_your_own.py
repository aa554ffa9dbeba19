from types import SimpleNamespace

import numpy as np

import cnncore as cc


def swish(x, beta):
    """y = x sigmoid(beta x), and the backward that I derived on paper."""
    s = 1 / (1 + np.exp(-beta * x))

    def backward(dy):
        return dy * (s + beta * x * s * (1 - s)), (dy * x * x * s).sum(axis=0)

    return x * s, SimpleNamespace(backward=backward)


rng = np.random.default_rng(0)
print(cc.gradcheck(swish, (rng.normal(size=(4, 3)), rng.normal(size=3))))
