"""Every op by its name."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import CnncoreError
from .op import Context, Op

_registry: dict[str, Op] = {}


class _Registry(Mapping[str, Op]):
    """Read-only view, in the order of registration."""

    def __repr__(self) -> str:
        return f"registry of {len(self)} ops: {', '.join(itertools.islice(self, 5))}, ..."

    def __getitem__(self, name: str) -> Op:
        try:
            return _registry[name]
        except KeyError:
            raise CnncoreError(f"no op is called {name!r}; there are: {', '.join(_registry)}") from None

    def __contains__(self, name: object) -> bool:
        return name in _registry

    def __iter__(self) -> Any:
        return iter(_registry)

    def __len__(self) -> int:
        return len(_registry)


registry: Mapping[str, Op] = _Registry()


def register(op: Op) -> Callable[..., tuple[Any, Context]]:
    """Enter an op and return the function users call."""
    if op.name in _registry:
        raise CnncoreError(f"an op called {op.name!r} is registered already")
    _registry[op.name] = op
    return op.function
