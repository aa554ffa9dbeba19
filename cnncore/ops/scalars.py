"""Numbers that a user gives: Python's, NumPy's scalars and arrays without axes are all the same here."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import CnncoreError

ROUNDING = 1 + 2**-50  # a quotient of two rounded numbers is off by less


def number(value: Any) -> int | float | None:
    """A number of Python's or NumPy's as Python's, whose arithmetic neither wraps nor rounds to float32; None for
    anything else, truth values included."""
    if isinstance(value, np.generic | np.ndarray) and value.ndim == 0 and value.dtype.kind in "iuf":
        return float(value) if value.dtype.kind == "f" else int(value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def finite(
    who: str, name: str, value: Any, least: float = -math.inf, below: float = math.inf, *, positive: bool = False
) -> float:
    """`value` as a float in [least, below), above 0 where it has to be `positive`, or a CnncoreError that names it.

    Integers and floats are numbers, of Python or of NumPy; truth values are not, nor what no finite float can hold.
    """
    given = number(value)
    try:
        found = math.nan if given is None else float(given)
    except OverflowError:  # an int beyond every float
        found = math.nan
    if not math.isfinite(found) or not least <= found < below or (positive and found <= 0):
        limits = [
            "above 0" if positive else f"at least {least:g}" if least > -math.inf else "",
            f"below {below:g}" if below < math.inf else "",
        ]
        limit = " and ".join(filter(None, limits))
        raise CnncoreError(f"{who}: {name} must be a finite number{f' {limit}' if limit else ''}, got {value!r}")
    return found


def plain(value: Any) -> Any:
    """`value` with NumPy's scalars as Python's numbers, and lists and arrays as tuples, inside lists and mappings too.

    What else there is stays what it is: whether it is right, its user says.
    """
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.dtype.kind in "biuf"):
        return plain(value.tolist()) if np.ndim(value) else value.item()
    if type(value) in (list, tuple):
        return tuple(plain(item) for item in value)
    if type(value) is dict:
        return {key: plain(item) for key, item in value.items()}
    return value


def whole(quotient: float) -> int:
    """floor(quotient) of two floats, where one that rounding left just below an integer counts as that integer."""
    return math.floor(quotient * ROUNDING)
