"""A learnt array, and taking over the state of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import ops
from ..backends import select
from ..errors import CnncoreError, DTypeError, ShapeError
from ..ops.writes import written


class Parameter:
    """A learnt array: `value`, and `grad`, the sum of all gradients since the last `zero_grad` (None: no gradient yet).

    Both live where the network lives, on the host or on a device.
    """

    def __init__(self, value: Any) -> None:
        self.value = value
        self.grad: Any = None
        self._sum: Any = None  # `grad`, where this parameter made it itself, so that it may be added to in place

    def accumulate(self, gradient: Any, own: bool = True) -> None:
        """Add a gradient. The first is kept as it is, so that one use of a layer costs no addition; one that somebody
        else may hold (`own` False) is never written to."""
        if self.grad is None:
            self.grad = gradient
        else:
            target = (self.grad,) if self.grad is self._sum else None
            self.grad, own = ops.add(self.grad, gradient, out=target)[0], True
        self._sum = self.grad if own else None

    def __getstate__(self) -> dict[str, Any]:
        return {"value": self.value, "grad": self.grad, "_sum": None}

    def __repr__(self) -> str:
        return f"Parameter(shape={tuple(self.value.shape)}, dtype={self.value.dtype})"


def assign(target: Any, value: np.ndarray) -> None:
    """Copy a host array into an array of the host or of a device."""
    if select.on_device(target):
        target.copy_to_device(np.ascontiguousarray(value))
    else:
        target[...] = value
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
