"""What a layer is made of: its fields are the arguments of its constructor, declared there and nowhere else.

    class Scale(Declared):
        rank: int

        def __init__(self, channels: int, factor: float = 1.0, *, seed: int | None = None) -> None:
            self.channels, self.factor = channels, factor
            self.gains = ...drawn from seed...

    Scale1d, Scale2d, Scale3d = by_rank(Scale)

    Scale2d(3, factor=2.0).fields()         {"channels": 3, "factor": 2.0}
    repr(Scale2d(3, factor=2.0))            Scale2d(3, factor=2.0)

A layer keeps a field under the argument's name, as an attribute or, for an attribute of its op, in `attrs`. What a
layer does not keep is no field: a seed, an initialisation and a dtype have done their work once the parameters exist.
Fields are read from the layer when they are asked for, so that they say what the layer computes now.

From the declaration follow repr, what a checkpoint knows the layer by, the classes by rank, and, of every class in this
folder, its name in `cnncore.layers`. A layer of a user's own may derive from `Layer` alone and needs nothing of it.
"""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

import numpy as np

from ..errors import CnncoreError, ShapeError
from .base import Layer
from .parameter import Parameter

L = TypeVar("L", bound=Layer)
OP_NAMES = {"kernel_size": "kernel"}  # fields that ops call otherwise
MISSING = object()


class Declared(Layer):
    """Base of the layers whose arguments are known: repr reads like the call."""

    def fields(self) -> dict[str, Any]:
        """The arguments by name, defaults included, as they stand now."""
        found = {name: _kept(self, name, argument) for name, argument in declared(type(self)).items()}
        return {name: value for name, value in found.items() if value is not MISSING}

    def describe(self) -> str:
        """The fields as the call gives them: required ones by their place, kernel_size and what follows it by name.
        Behind the first field, those that have their default are left out."""
        arguments, named = declared(type(self)), False
        parts: list[str] = []
        for name, value in self.fields().items():
            default = arguments[name].default
            named = named or name in OP_NAMES or default is not inspect.Parameter.empty
            if not parts or value != default:
                parts.append(f"{name}={value!r}" if named else repr(value))
        return ", ".join(parts)


def declared(kind: type[Layer]) -> dict[str, inspect.Parameter]:
    """The arguments that a class declares, then those of its bases that it does not declare itself."""
    found: dict[str, inspect.Parameter] = {}
    for base in kind.__mro__:
        own = vars(base)
        if "__signature__" in own:
            parameters = list(own["__signature__"].parameters.values())
        else:
            parameters = list(inspect.signature(own["__init__"]).parameters.values())[1:] if "__init__" in own else []
        for parameter in parameters:
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                found.setdefault(parameter.name, parameter)
    return found


def _kept(layer: Layer, name: str, argument: inspect.Parameter) -> Any:
    """What a layer keeps of an argument; MISSING for nothing."""
    own = vars(layer)
    value = own.get(name, own.get("attrs", {}).get(OP_NAMES.get(name, name), MISSING))
    if isinstance(argument.default, bool) and (value is None or isinstance(value, Parameter)):
        return value is not None  # `bias`: whether the parameter is there
    return MISSING if isinstance(value, Parameter | np.ndarray) else value


_by_rank: dict[type, Any] = {}


def by_rank(kind: type[L]) -> tuple[type[L], type[L], type[L]]:
    """The 1-d, 2-d and 3-d class of an n-d layer, the same at every call: `Conv1d, Conv2d, Conv3d = by_rank(Conv)`.

    That line belongs behind the class, in its module: there pickle looks for the three.
    """
    if kind not in _by_rank:
        about = {"__doc__": kind.__doc__, "__module__": kind.__module__}
        if not hasattr(kind, "rank"):
            kind.rank = property(_no_rank)  # type: ignore[attr-defined]
        _by_rank[kind] = tuple(type(f"{kind.__name__}{rank}d", (kind,), {"rank": rank, **about}) for rank in (1, 2, 3))
    return _by_rank[kind]


def _no_rank(layer: Layer) -> int:
    name = type(layer).__name__
    raise CnncoreError(f"{name}: the number of axes is part of the name: use {name}1d, {name}2d or {name}3d")


def check_rank(layer: Layer, rank: int, x: Any) -> None:
    """Raise unless x is (N, C, *S) with `rank` spatial axes; an op alone would take any rank."""
    if len(getattr(x, "shape", ())) != rank + 2:
        raise ShapeError(
            f"{type(layer).__name__}: x must be (N, C, *S) with {rank} spatial axes, "
            f"got {f'shape {tuple(x.shape)}' if hasattr(x, 'shape') else type(x).__name__}"
        )
