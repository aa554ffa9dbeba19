"""Optimiser steps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .windows import Arrays, zeros


def sgd_step_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    value, grad, velocity = arrays
    lr, momentum, decay = attrs["lr"], attrs.get("momentum", 0.0), attrs.get("weight_decay", 0.0)
    new_value, new_velocity = zeros(*value.shape), zeros(*value.shape)
    for i in np.ndindex(*value.shape):
        g = float(grad[i]) + decay * float(value[i])
        v = momentum * float(velocity[i]) + g
        new_velocity[i] = v
        new_value[i] = float(value[i]) - lr * (g + momentum * v if attrs.get("nesterov", False) else v)
    return new_value, new_velocity


def adam_step_forward(arrays: Arrays, attrs: dict[str, Any]) -> Arrays:
    value, grad, mean, square = arrays
    beta1, beta2 = attrs.get("beta1", 0.9), attrs.get("beta2", 0.999)
    new = tuple(zeros(*value.shape) for _ in range(3))
    for i in np.ndindex(*value.shape):
        g = float(grad[i]) + attrs.get("weight_decay", 0.0) * float(value[i])
        m = beta1 * float(mean[i]) + (1 - beta1) * g
        s = beta2 * float(square[i]) + (1 - beta2) * g * g
        corrected = math.sqrt(s / (1 - beta2 ** attrs["step"])) + attrs.get("eps", 1e-8)
        new[0][i] = float(value[i]) - attrs["lr"] * (m / (1 - beta1 ** attrs["step"])) / corrected
        new[1][i], new[2][i] = m, s
    return new
