"""Layers: ops with their parameters, and containers. Names and arguments are PyTorch's where it has them.

Every public class of layers in this folder is here by its name, the pooling layers of every registered op too: a new
layer is a file, and nothing is entered here.
"""

# ruff: noqa: F401, F403, F405
from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from . import pool
from .base import Layer
from .contexts import Chain, Context, Join, OpContext, ViewContext
from .conv_kinds import Savings, factor
from .init import seeds
from .parameter import Parameter
from .pool import named_pool

if TYPE_CHECKING:  # what is found below, for those who read types; what is missing here is there, as Any
    from .base import *
    from .containers import *
    from .conv import *
    from .conv_kinds import *
    from .fields import *
    from .hetero import *
    from .norm import *
    from .simple import *
    from .units import *


def _layers() -> dict[str, Any]:
    """The public classes of layers that a file of this folder defines."""
    found: dict[str, Any] = {}
    for file in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{file.name}")
        for name, kind in vars(module).items():
            if isinstance(kind, type) and not name.startswith("_") and kind.__module__ == module.__name__:
                found |= {name: kind} if issubclass(kind, Layer) else {}
    return found


def _mine(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).startswith(f"{__name__}.")


globals().update(_layers())
__all__ = sorted([*(name for name, thing in globals().items() if _mine(thing)), *pool.made_names()])


def __getattr__(name: str) -> Any:
    """The layers of pooling ops, those that are registered later too."""
    try:
        return getattr(pool, name)
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return [*globals(), *pool.made_names()]
