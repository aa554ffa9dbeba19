"""What every op checks of its arguments, whatever its rule says: how many arrays, their types, where `out` lies."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backends.device import is_foreign
from ..errors import BackendError, CnncoreError, DTypeError, ShapeError
from .roles import Role
from .scalars import plain
from .spec import MAX_AXES, Arrays

if TYPE_CHECKING:
    from .op import Op, Plan


def filled(op: Op, arrays: Arrays) -> Arrays:
    """The array arguments, with None for optional ones that were left out."""
    if op.variadic:
        if not arrays:
            raise CnncoreError(f"{op.name}: needs at least one array")
        return arrays
    if len(arrays) > len(op.arrays):
        raise CnncoreError(
            f"{op.name}: takes {len(op.arrays)} arrays ({', '.join(op.arrays)}), got {len(arrays)}; "
            "attributes are given by name"
        )
    for name in list(op.arrays)[len(arrays) :]:
        if name in op.required:
            raise CnncoreError(f"{op.name}: argument {name} is missing")
    return arrays + (None,) * (len(op.arrays) - len(arrays))


def check_array(op: str, name: str, a: Any) -> None:
    # Subclasses are refused, since they change what operators do: a masked array would lose its mask in C, a matrix
    # multiplies by `*`. A memmap only lives elsewhere.
    if not (type(a) is np.ndarray or isinstance(a, np.generic | np.memmap) or is_foreign(a)):
        raise DTypeError(f"{op}: {name} must be a NumPy array, got {type(a).__name__}")


def check_out(plan: Plan, out: Any) -> None:
    """`out` has an array of the right shape and dtype for every output: kernels write to it without looking."""
    op, spec, dtype, engine = plan.op, plan.spec, plan.dtype, plan.engine
    if not isinstance(out, tuple | list) or len(out) != op.outputs:
        raise CnncoreError(f"{op.name}: out must be a tuple with one array per output ({op.outputs})")
    for target, (name, (shape, _)) in zip(out, spec.results.items(), strict=False):
        check_array(op.name, f"out for {name}", target)
        if is_foreign(target) and not engine.on_device:
            raise BackendError(f"{op.name}: out for {name} is on the CUDA device, {engine.name!r} computes")
        if tuple(target.shape) != shape:
            raise ShapeError(f"{op.name}: out for {name} must have shape {shape}, got {tuple(target.shape)}")
        if target.dtype != dtype:
            raise DTypeError(f"{op.name}: out for {name} must be {dtype}, got {target.dtype}")
        if isinstance(target, np.generic) or (isinstance(target, np.ndarray) and not target.flags.writeable):
            raise CnncoreError(f"{op.name}: out for {name} must be writeable")


def names_among(op: str, needs: Any, names: tuple[str, ...]) -> list[str]:
    """`needs` as a list of argument names."""
    wanted = list(needs) if isinstance(needs, Iterable) and not isinstance(needs, str) else [needs]
    if not all(isinstance(n, str) and n in names for n in wanted):
        raise CnncoreError(f"{op}: needs must name arguments among {list(names)}, got {needs!r}")
    return wanted


def check_types(op: Op, names: tuple[str, ...], roles: tuple[Role, ...], arrays: Arrays) -> Any:
    """Types of all arguments; returns the one dtype of the float ones."""
    dtype = None
    first = ""
    for name, role, a in zip(names, roles, arrays, strict=True):
        if a is None and (op.variadic or name in op.required):
            raise DTypeError(f"{op.name}: {name} must be a NumPy array, got None")
        if a is None or (role.drawn and isinstance(a, tuple)):
            continue
        if type(a) is not np.ndarray:
            check_array(op.name, name, a)
        if len(a.shape) > MAX_AXES:
            raise ShapeError(f"{op.name}: {name} has {len(a.shape)} axes, at most {MAX_AXES} are supported (N, C, *S)")
        role.check(op.name, name, a)
        if role.dtype is not None:
            continue
        if dtype is None:
            dtype, first = a.dtype, name
        elif a.dtype != dtype:
            raise DTypeError(f"{op.name}: {name} is {a.dtype}, {first} is {dtype}; all must be the same")
    return dtype


def with_uniforms(plan: Plan, arrays: Arrays) -> Arrays:
    """The arguments with the randomness checked, or what the backend takes for the uniforms that a Philox key stands
    for."""
    place, shape, name = plan.drawn or 0, plan.spec.random, plan.op.name
    u = arrays[place]
    if isinstance(u, tuple):
        u = plan.engine.random(check_key(name, u), shape, plan.dtype)
    elif tuple(u.shape) != shape:
        raise ShapeError(f"{name}: u must have shape {shape}, got {tuple(u.shape)}")
    return (*arrays[:place], u, *arrays[place + 1 :])


def explained(op: Op, arrays: Arrays, attrs: dict[str, Any]) -> CnncoreError | None:
    """What a TypeError of a rule means: an argument that it does not have; None for a defect inside the rule."""
    try:
        inspect.signature(op.rule).bind(*arrays, **attrs)
    except TypeError as error:
        return CnncoreError(f"{op.name}: {error} (arrays are positional, attributes are given by name)")
    return None


def check_key(op: str, key: Any) -> tuple[int, int]:
    """A (seed, counter) pair of integers in [0, 2^64), or an error that says so."""
    numbers = plain(tuple(key))
    if len(numbers) != 2 or not all(type(k) is int and 0 <= k < 2**64 for k in numbers):
        raise CnncoreError(f"{op}: a random key is (seed, counter), two integers in [0, 2^64); got {key!r}")
    return numbers
