"""Optimisers and learning-rate schedules.

    optimizer = SGD(net, lr=0.05, momentum=0.9, weight_decay={"*.bias": 0.0, layers.Conv: 1e-4, layers.Linear: 5e-4})
    net.zero_grad(); ...; optimizer.step(lr=schedule(optimizer.lr, epoch))

Weight decay is a number for all parameters, or one per group: a mapping from a name pattern ("*.bias", as in a shell)
or a kind of layer to a number. The first key that fits a parameter decides; where none does, it is 0.

A schedule is a function of the epoch alone, so there is nothing to save of it.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import ops
from .backends.device import device_of, to_host
from .errors import CnncoreError
from .layers.base import Layer
from .layers.parameter import Parameter, assign, check_state
from .ops.scalars import finite, whole

Decay = float | Mapping[str | type[Layer], float]


class Optimizer:
    """Base: a network's parameters with their weight decay and state arrays. Subclasses define `slots` and `update`.

    steps: calls of `step`; updates: parameter name -> how many of them found a gradient and moved that parameter.
    """

    slots: tuple[str, ...]  # the state arrays of every parameter; they start at 0

    def __init__(self, net: Layer, lr: float, weight_decay: Decay) -> None:
        self.parameters = net.parameters()
        self.lr = _rate(self, "lr", lr)
        self.decay = _decay_of_each(self, net, weight_decay)
        self.steps = 0
        self.updates = dict.fromkeys(self.parameters, 0)
        self.state = {
            name: tuple(_zeros_like(parameter.value) for _ in self.slots) for name, parameter in self.parameters.items()
        }

    def step(self, lr: float | None = None) -> None:
        """Move every parameter that has a gradient, in place; `lr` is this step's rate, by default `self.lr`.

        A parameter without a gradient, a frozen layer's for one, keeps its value and its state: weight decay and
        momentum do not move it either. Raises CnncoreError for a rate that is no finite number of at least 0.
        """
        rate = _rate(self, "lr", self.lr if lr is None else lr)
        self.steps += 1
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                self.updates[name] += 1
                self.update(parameter, self.state[name], rate, self.decay[name], self.updates[name])

    def update(
        self, parameter: Parameter, state: tuple[Any, ...], lr: float, weight_decay: float, step: int
    ) -> None:  # fmt: skip
        """Move one parameter and its state, in place; `step` counts this parameter's updates from 1."""
        raise NotImplementedError(f"{type(self).__name__} defines no update")

    def settings(self) -> dict[str, Any]:
        """Everything chosen by hand, for JSON: two optimisers with equal settings and state do the same."""
        return {"name": type(self).__name__, "lr": _rate(self, "lr", self.lr), "weight_decay": dict(self.decay)}

    def __repr__(self) -> str:
        told = self.settings()
        name, decay = told.pop("name"), set(told.pop("weight_decay").values())
        told["weight_decay"] = decay.pop() if len(decay) == 1 else "by parameter"
        chosen = ", ".join(f"{key}={value}" for key, value in told.items())
        return f"{name}({chosen}; {len(self.parameters)} parameters, {self.steps} steps)"

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of the state arrays, as "<slot>.<parameter>", "steps", and "updates.<parameter>" of every one."""
        state = {
            f"{slot}.{name}": np.array(to_host(a))
            for name, arrays in self.state.items()
            for slot, a in zip(self.slots, arrays, strict=True)
        }
        counts = {f"updates.{name}": count for name, count in self.updates.items()}
        return state | {name: np.array(count, np.uint64) for name, count in {"steps": self.steps, **counts}.items()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over a `state_dict`; nothing changes unless all of it fits.

        Raises CnncoreError (missing or unknown names), ShapeError, DTypeError.
        """
        check_state(type(self).__name__, self.state_dict(), state)
        for name, arrays in self.state.items():
            for slot, a in zip(self.slots, arrays, strict=True):
                assign(a, state[f"{slot}.{name}"])
        self.steps = int(state["steps"])
        self.updates = {name: int(state[f"updates.{name}"]) for name in self.updates}


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, Nesterov's on request: `ops.sgd_step`."""

    slots = ("velocity",)

    def __init__(
        self, net: Layer, lr: float, momentum: float = 0.0, nesterov: bool = False, weight_decay: Decay = 0.0
    ) -> None:
        super().__init__(net, lr, weight_decay)
        self.momentum = _rate(self, "momentum", momentum)
        self.nesterov = bool(nesterov)

    def update(
        self, parameter: Parameter, state: tuple[Any, ...], lr: float, weight_decay: float, step: int
    ) -> None:  # fmt: skip
        ops.sgd_step(
            parameter.value, parameter.grad, *state, out=(parameter.value, *state),
            lr=lr, momentum=self.momentum, nesterov=self.nesterov, weight_decay=weight_decay,
        )  # fmt: skip

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "momentum": self.momentum, "nesterov": self.nesterov}


class Adam(Optimizer):
    """Adam: `ops.adam_step`. Weight decay is added to the gradient, as in the paper (not AdamW's).

    The step that its corrections refer to is counted for every parameter by itself, as Kingma & Ba's t is: a parameter
    whose first gradient comes late takes a first step then.
    """

    slots = ("mean", "square")

    def __init__(
        self, net: Layer, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: Decay = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(net, lr, weight_decay)
        self.betas = (_rate(self, "beta1", betas[0], 1), _rate(self, "beta2", betas[1], 1))
        self.eps = _rate(self, "eps", eps)

    def update(
        self, parameter: Parameter, state: tuple[Any, ...], lr: float, weight_decay: float, step: int
    ) -> None:  # fmt: skip
        ops.adam_step(
            parameter.value, parameter.grad, *state, out=(parameter.value, *state), step=step,
            lr=lr, beta1=self.betas[0], beta2=self.betas[1], eps=self.eps, weight_decay=weight_decay,
        )  # fmt: skip

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "betas": list(self.betas), "eps": self.eps}


@dataclass(frozen=True)
class StepLR:
    """lr gamma^floor(epoch / step_size): the rate falls by `gamma` every `step_size` epochs."""

    step_size: float
    gamma: float = 0.1

    def __post_init__(self) -> None:
        _take_over(self, step_size=_rate(self, "step_size", self.step_size, positive=True))
        _take_over(self, gamma=_rate(self, "gamma", self.gamma))

    def __call__(self, lr: float, epoch: float) -> float:
        """The rate at `epoch`, which counts from 0 and may lie between whole epochs; `lr` is the rate at 0."""
        return float(lr * self.gamma ** whole(epoch / self.step_size))


@dataclass(frozen=True)
class CosineLR:
    """Half a cosine from lr at epoch 0 to `least` at epoch `epochs`, where it stays (Loshchilov & Hutter 2017)."""

    epochs: float
    least: float = 0.0

    def __post_init__(self) -> None:
        _take_over(self, epochs=_rate(self, "epochs", self.epochs, positive=True))
        _take_over(self, least=_rate(self, "least", self.least))

    def __call__(self, lr: float, epoch: float) -> float:
        """The rate at `epoch`, which counts from 0 and may lie between whole epochs; `lr` is the rate at 0."""
        share = (1 + math.cos(math.pi * min(epoch / self.epochs, 1.0))) / 2
        return float(lr * share + self.least * (1 - share))  # exactly lr and `least` at the two ends


def _rate(who: object, name: str, value: Any, below: float = math.inf, positive: bool = False) -> float:
    return finite(type(who).__name__, name, value, 0, below, positive=positive)


def _take_over(schedule: object, **checked: float) -> None:
    """Give a frozen dataclass fields that were checked, as Python's floats: equal schedules then have equal reprs."""
    for name, value in checked.items():
        object.__setattr__(schedule, name, value)


def _zeros_like(a: Any) -> Any:
    """Zeros of a's shape and dtype, where `a` lives."""
    return device_of(a).full(tuple(a.shape), 0, a.dtype)


def _decay_of_each(who: object, net: Layer, weight_decay: Decay) -> dict[str, float]:
    """Parameter name -> weight decay. Raises where a key fits no parameter at all: that is a misspelt one."""
    groups = weight_decay if isinstance(weight_decay, Mapping) else {"*": weight_decay}
    groups = {key: _rate(who, f"weight_decay of {key!r}", value) for key, value in groups.items()}
    owners = {id(p): layer for _, layer in net.walk() for p in layer.own_parameters().values()}
    decay: dict[str, float] = {}
    fitting = set()
    for name, parameter in net.parameters().items():
        fits = [key for key in groups if _fits(key, name, owners[id(parameter)])]
        decay[name] = groups[fits[0]] if fits else 0.0
        fitting.update(fits)
    idle = [key for key in groups if key not in fitting and key != "*"]
    if idle:
        raise CnncoreError(f"{type(who).__name__}: weight_decay: {idle[0]!r} fits none of {', '.join(decay)}")
    return decay


def _fits(key: str | type[Layer], name: str, owner: Layer) -> bool:
    return fnmatch.fnmatchcase(name, key) if isinstance(key, str) else isinstance(owner, key)
