"""What every op computes, a second time: nested loops over single numbers, written from the formulas alone.

It shares no code with cnncore: no windows, no shapes, no NumPy arithmetic. Arrays are only read and written element by
element, all arithmetic is on Python floats (float64). Slow on purpose; problems must be small.

An op's loops are the functions `<op>_forward` and `<op>_backward` of the file named as the op's own.

    ORACLE[name].forward(arrays, attrs)       -> the op's outputs
    ORACLE[name].backward(arrays, attrs, dy)  -> a gradient or None per array (None: the op has no gradient)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from . import contrast, conv, dense, norm, pointwise, pool, steps, units
from .windows import REAL, Arrays, Axis, axes, outputs, taps

__all__ = ["ORACLE", "REAL", "Axis", "Loops", "axes", "outputs", "taps"]


class Loops(NamedTuple):
    forward: Callable[[Arrays, dict[str, Any]], Arrays]
    backward: Callable[[Arrays, dict[str, Any], Any], Arrays] | None


def found() -> Iterator[tuple[str, Loops]]:
    """Every `<op>_forward` of these files, with its `<op>_backward` where it has one."""
    for module in (conv, pool, units, dense, norm, contrast, pointwise, steps):
        for name, function in vars(module).items():
            if name.endswith("_forward"):
                op = name.removesuffix("_forward")
                yield op, Loops(function, getattr(module, f"{op}_backward", None))


def whole(loops: Loops) -> Loops:
    """A pool with all of S for its kernel."""

    def over(x: Any, attrs: dict[str, Any]) -> dict[str, Any]:
        return {**attrs, "kernel": tuple(x.shape[2:])}

    back = loops.backward
    assert back is not None
    return Loops(
        lambda a, attrs: loops.forward(a, over(a[0], attrs)), lambda a, attrs, dy: back(a, over(a[0], attrs), dy)
    )


ORACLE = dict(found())
ORACLE |= {f"global_{name}": whole(loops) for name, loops in ORACLE.items() if name.endswith("_pool")}
