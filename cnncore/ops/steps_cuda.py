"""The optimiser steps on the device. Definition: steps.py.

Arrays are flat; thread i takes elements i, i + grid size, .... Every thread reads all of an element's values before it
writes any, so results may lie where the inputs lie.
"""

import math
from typing import Any

from ..backends.kernel import Float1, Int, Real, cuda, flat, kernel

Arrays = tuple[Any, ...]


@kernel
def sgd_step(
    new_value: Float1, new_velocity: Float1, value: Float1, grad: Float1, velocity: Float1,
    lr: Real, momentum: Real, weight_decay: Real, nesterov: Int,
) -> None:  # fmt: skip
    for i in range(cuda.grid(1), new_value.shape[0], cuda.gridsize(1)):
        old = value[i]
        g = grad[i] + weight_decay * old
        v = momentum * velocity[i] + g
        new_value[i] = old - lr * (g + momentum * v if nesterov else v)
        new_velocity[i] = v


@kernel
def adam_step(
    new_value: Float1, new_mean: Float1, new_square: Float1,
    value: Float1, grad: Float1, mean: Float1, square: Float1,
    beta1: Real, rest1: Real, beta2: Real, rest2: Real, eps: Real, weight_decay: Real, rate: Real, correction: Real,
) -> None:  # fmt: skip
    """rest1, rest2: 1 - beta, taken in float64: in float32, 1 - 0.999 would be off by 5e-5."""
    for i in range(cuda.grid(1), new_value.shape[0], cuda.gridsize(1)):
        old = value[i]
        g = grad[i] + weight_decay * old
        m = beta1 * mean[i] + rest1 * g
        s = beta2 * square[i] + rest2 * g * g
        new_value[i] = old - rate * m / (math.sqrt(s) * correction + eps)
        new_mean[i] = m
        new_square[i] = s


# --- on the host ---


def _sgd(p: Any, out: Arrays, *arrays: Any) -> None:
    args = [flat(a) for a in (*out, *arrays)]
    sgd_step.over(args[0].shape[0], *args, p.lr, p.momentum, p.weight_decay, int(p.nesterov))


def _adam(p: Any, out: Arrays, *arrays: Any) -> None:
    args = [flat(a) for a in (*out, *arrays)]
    adam_step.over(
        args[0].shape[0], *args, p.beta1, 1 - p.beta1, p.beta2, 1 - p.beta2, p.eps, p.weight_decay, p.rate, p.correction
    )


TABLE = {"sgd_step": (_sgd, None), "adam_step": (_adam, None)}
