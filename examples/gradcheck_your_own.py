"""Check a backward of your own. This one forgets a factor: the report names the wrong entries."""

import numpy as np

import cnncore as cc


class Square:  # y = (x w)^2, so dy/dx = 2 x w^2 and dy/dw = 2 x^2 w
    def __init__(self, x, w):
        self.x, self.w = x, w

    def backward(self, dy):
        return dy * 2 * self.x * self.w**2, dy * self.x**2 * self.w  # the second lacks its 2


rng = np.random.default_rng(0)
x, w = rng.standard_normal((2, 3)), rng.standard_normal((2, 3))
print(cc.gradcheck(lambda x, w: ((x * w) ** 2, Square(x, w)), (x, w)))
