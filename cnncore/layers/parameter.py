"""A learnt array, and taking over the state of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import ops
from ..backends.device import device_of
from ..errors import CnncoreError, DTypeError, ShapeError
from ..ops.writes import written


class Parameter:
    """A learnt array: `value`, and `grad`, the sum of all gradients since the last `zero_grad` (None: no gradient yet).

    Both live where the network lives, on the host or on a device.
    """

    def __init__(self, value: Any) -> None:
        self.value = value
        self.grad = None

    @property
    def grad(self) -> Any:
        return self._grad

    @grad.setter
    def grad(self, gradient: Any) -> None:
        self._grad, self._own = gradient, False  # whoever set it may hold it, so that it is never written to

    def accumulate(self, gradient: Any, own: bool = True) -> None:
        """Add a gradient. The first is kept as it is, so that one use of a layer costs no addition; one that somebody
        else may hold (`own` False) is never written to."""
        if self._grad is None:
            self._grad, self._own = gradient, own
        else:
            self._grad = ops.add(self._grad, gradient, out=(self._grad,) if self._own else None)[0]
            self._own = True

    def __repr__(self) -> str:
        return f"Parameter(shape={tuple(self.value.shape)}, dtype={self.value.dtype})"


def assign(target: Any, value: np.ndarray) -> None:
    """Copy a host array into an array, wherever it lives."""
    device_of(target).write(target, value)
    written(target)


def check_state(who: str, expected: Mapping[str, np.ndarray], found: Mapping[str, Any]) -> None:
    """Raise unless `found` has the names, shapes and dtypes of `expected`."""
    missing, unknown = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or unknown:
        parts = [f"{what} {', '.join(names)}" for what, names in (("missing", missing), ("unknown", unknown)) if names]
        raise CnncoreError(f"{who}: the names differ: {'; '.join(parts)}")
    for name, own in expected.items():
        given = found[name]
        if not isinstance(given, np.ndarray):
            raise DTypeError(f"{who}: {name} must be a NumPy array, got {type(given).__name__}")
        if given.shape != own.shape:
            raise ShapeError(f"{who}: {name} must have shape {own.shape}, got {given.shape}")
        if given.dtype != own.dtype:
            raise DTypeError(f"{who}: {name} must be {own.dtype}, got {given.dtype}")
