"""How often an array was written to as `out=`, counted for arrays that somebody watches.

A layer's context watches the parameters that its forward read: a backward behind a change would be another gradient.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np


class Writes:
    """The count of one array, shared by all who watch it."""

    __slots__ = ("count", "tie")

    def __init__(self, tie: weakref.ref[Any]) -> None:
        self.count, self.tie = 0, tie


_watched: dict[int, Writes] = {}  # by id of the array that owns the memory, as long as it lives


def _owner(a: Any) -> Any:
    """The array that a view is a part of."""
    while type(a) is np.ndarray and isinstance(a.base, np.ndarray):
        a = a.base
    return a


def watch(a: Any) -> Writes:
    """The count of writes to the memory that `a` is a view of."""
    owner = _owner(a)
    key = id(owner)
    writes = _watched.get(key)
    if writes is None:
        writes = _watched[key] = Writes(weakref.ref(owner, lambda _: _watched.pop(key, None)))
    return writes


def written(a: Any) -> None:
    """Count a write."""
    if (writes := _watched.get(id(_owner(a)))) is not None:
        writes.count += 1
