"""Optimiser steps: what `cnncore.optim` calls. Kernels: csrc/steps.c, steps_cuda.py. Given `out`, they run in place."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..errors import ShapeError
from . import domain, geometry
from .op import Op
from .records import register
from .roles import DENSE
from .spec import Arrays, Case, Spec, flops_free


def _same_shapes(op: str, **arrays: Any) -> tuple[int, ...]:
    (first, reference), *others = arrays.items()
    for name, a in others:
        if tuple(a.shape) != tuple(reference.shape):
            raise ShapeError(f"{op}: {name} must have {first}'s shape {tuple(reference.shape)}, got {tuple(a.shape)}")
    return tuple(reference.shape)


def _state(draw: domain.Draw, count: int) -> tuple[np.ndarray, ...]:
    shape = tuple(draw.integer(1, 6) for _ in range(draw.integer(1, 4)))
    return tuple(draw.normal(*shape) for _ in range(count))


def sgd_step_rule(
    value: Any, grad: Any, velocity: Any, *,
    lr: float, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0,
) -> Spec:  # fmt: skip
    """One step of stochastic gradient descent with momentum; returns the new (value, velocity).

    g = grad + weight_decay value;   v' = momentum velocity + g
    value' = value - lr v', or with nesterov value - lr (g + momentum v')

    Shapes: all equal.
    Edges: without momentum the velocity is the last gradient; NaN and Inf propagate.
    Raises ShapeError, DTypeError, CnncoreError (a negative rate).
    Source: Sutskever et al. 2013, in PyTorch's form.
    """
    shape = _same_shapes("sgd_step", value=value, grad=grad, velocity=velocity)
    params = SimpleNamespace(
        nesterov=geometry.flag("sgd_step", "nesterov", nesterov),
        **sgd_step_numbers(lr=lr, momentum=momentum, weight_decay=weight_decay),
    )
    return Spec(params, {"value": (shape, None), "velocity": (shape, None)})


def sgd_step_numbers(*, lr: float, momentum: float = 0.0, weight_decay: float = 0.0) -> dict[str, float]:
    geometry.at_least("sgd_step", 0, lr=lr, momentum=momentum, weight_decay=weight_decay)
    return {"lr": float(lr), "momentum": float(momentum), "weight_decay": float(weight_decay)}


def sgd_step_forward(p: Any, value: np.ndarray, grad: np.ndarray, velocity: np.ndarray) -> Arrays:
    g = grad + p.weight_decay * value
    v = p.momentum * velocity + g
    return value - p.lr * (g + p.momentum * v if p.nesterov else v), v


def sgd_step_domain(draw: domain.Draw) -> Case:
    attrs = {"lr": 0.1, "momentum": draw.choice([0.0, 0.9]), "nesterov": draw.choice([False, True])}
    return Case(_state(draw, 3), {**attrs, "weight_decay": draw.choice([0.0, 0.01])})


sgd_step = register(
    Op(
        "sgd_step", sgd_step_rule, sgd_step_forward, None, {"value": DENSE, "grad": DENSE, "velocity": DENSE}, (),
        sgd_step_domain, flops_free, outputs=2, elementwise=True, changing=sgd_step_numbers,
    )
)  # fmt: skip


def adam_step_rule(
    value: Any, grad: Any, mean: Any, square: Any, *,
    lr: float, step: int, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0,
) -> Spec:  # fmt: skip
    """One step of Adam; returns the new (value, mean, square). `step` counts from 1.

    g = grad + weight_decay value;   m' = beta1 mean + (1 - beta1) g;   s' = beta2 square + (1 - beta2) g^2
    value' = value - lr (m' / (1 - beta1^step)) / (sqrt(s' / (1 - beta2^step)) + eps)

    Shapes: all equal.
    Edges: where every gradient was 0 the value stays (eps > 0); with eps = 0 it is NaN there. NaN and Inf propagate.
    Raises ShapeError, DTypeError, CnncoreError (a rate out of range).
    Source: Kingma & Ba 2015.
    """
    shape = _same_shapes("adam_step", value=value, grad=grad, mean=mean, square=square)
    numbers = adam_step_numbers(lr=lr, step=step, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)
    return Spec(SimpleNamespace(**numbers), {"value": (shape, None), "mean": (shape, None), "square": (shape, None)})


def adam_step_numbers(
    *, lr: float, step: int, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0
) -> dict[str, float]:
    geometry.at_least("adam_step", 0, lr=lr, eps=eps, weight_decay=weight_decay)
    geometry.at_least("adam_step", 0, 1, beta1=beta1, beta2=beta2)
    lr, eps, weight_decay, beta1, beta2 = (float(a) for a in (lr, eps, weight_decay, beta1, beta2))
    step = geometry.integer("adam_step", "step", step, 1)
    return {
        "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay,
        "rate": lr / (1 - beta1**step), "correction": 1 / math.sqrt(1 - beta2**step),
    }  # fmt: skip


def adam_step_forward(p: Any, value: np.ndarray, grad: np.ndarray, mean: np.ndarray, square: np.ndarray) -> Arrays:
    g = grad + p.weight_decay * value
    m = p.beta1 * mean + (1 - p.beta1) * g
    s = p.beta2 * square + (1 - p.beta2) * g * g
    return value - p.rate * m / (np.sqrt(s) * p.correction + p.eps), m, s


def adam_step_domain(draw: domain.Draw) -> Case:
    value, grad, mean, square = _state(draw, 4)
    attrs = {"lr": 0.01, "step": draw.integer(1, 50), "weight_decay": draw.choice([0.0, 0.01])}
    return Case((value, grad, mean, square * square), attrs)


adam_step = register(
    Op(
        "adam_step", adam_step_rule, adam_step_forward, None,
        {"value": DENSE, "grad": DENSE, "mean": DENSE, "square": DENSE}, (), adam_step_domain, flops_free, outputs=3,
        elementwise=True, changing=adam_step_numbers,
    )
)  # fmt: skip
