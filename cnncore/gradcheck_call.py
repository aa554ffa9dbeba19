"""What gradcheck can check, brought to one form: a function of arrays that gives its outputs and their backward.

    an op of `cc.ops`                          names and constants from its record
    fn(*inputs) -> (y, ctx)                    ctx.backward(dy) -> a gradient per input
    (forward, backward)                        forward(*inputs) -> (y, cache), backward(dy, cache) -> gradients
    a layer or network                         x and every parameter are the inputs

y may be a tuple of arrays: ctx.backward then takes one dy for each, and a pair's backward a tuple of them. A pair's
forward may also give its outputs one after the other, (y1, y2, cache); its backward then takes (dy1, dy2, cache).
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .backends.device import to_host
from .errors import CnncoreError
from .layers import Drawing, Layer
from .ops.op import Context, Op


@dataclass(frozen=True)
class Run:
    """One forward: its outputs on the host, what it kept, and its backward, a function of one dy per output."""

    outputs: tuple[np.ndarray, ...]
    kept: Any
    backward: Callable[..., Any]

    @property
    def names(self) -> tuple[str, ...] | None:
        """The arguments that an op's backward gives gradients for; None for any other function."""
        return tuple(self.kept.names) if isinstance(self.kept, Context) else None


@dataclass(frozen=True)
class Subject:
    """Something to check: its name, the names of its inputs, its forward, and the inputs known to be constant."""

    name: str
    names: list[str]
    call: Callable[..., Run]
    constant: frozenset[str] = frozenset()

    def run(self, arrays: tuple[Any, ...]) -> Run:
        """A forward that cannot change the constants of the next: dictionaries and lists go in as copies."""
        return self.call(*(copy.deepcopy(a) if isinstance(a, dict | list) else a for a in arrays))


def function(fn: Callable[..., Any], arrays: tuple[Any, ...], attrs: dict[str, Any]) -> Subject:
    """An op, or a function that returns (y, ctx)."""

    def call(*inputs: Any) -> Run:
        result = fn(*inputs, **attrs)
        if not isinstance(result, tuple) or len(result) != 2 or not hasattr(result[1], "backward"):
            raise CnncoreError(
                "gradcheck: the function must return (y, ctx), with a method ctx.backward(dy); "
                "a pair of functions is given as gradcheck((forward, backward), inputs)"
            )
        return Run(_outputs(result[0]), result[1], result[1].backward)

    op = getattr(fn, "op", None)
    if op is None:
        return Subject(getattr(fn, "__name__", type(fn).__name__), _names(fn, len(arrays)), call)
    names = op.names(arrays)[: len(arrays)]
    constant = frozenset(
        name for name, d in zip(names, op.differentiable(with_absent(op, arrays)), strict=False) if not d
    )
    return Subject(getattr(fn, "__name__", op.name), names, call, constant)


def pair(
    forward: Callable[..., Any], backward: Callable[..., Any], arrays: tuple[Any, ...], attrs: dict[str, Any]
) -> Subject:
    """forward(*inputs) -> (y, cache) and backward(dy, cache) -> gradients, as courses write them."""

    def call(*inputs: Any) -> Run:
        result = forward(*inputs, **attrs)
        if not isinstance(result, tuple) or len(result) < 2:
            got = f"{len(result)} entries" if isinstance(result, tuple) else type(result).__name__
            raise CnncoreError(f"gradcheck: forward of a pair must return (y, cache), got {got}")
        *ys, cache = result
        many = len(ys) == 1 and isinstance(ys[0], tuple | list)
        return Run(
            _outputs(ys[0] if len(ys) == 1 else tuple(ys)), cache,
            lambda *dys: backward(dys, cache) if many else backward(*dys, cache),
        )  # fmt: skip

    return Subject(getattr(forward, "__name__", type(forward).__name__), _names(forward, len(arrays)), call)


@contextlib.contextmanager
def network(net: Any) -> Iterator[tuple[Subject, list[Any]]]:
    """A network as a function of x and the values of its parameters, and these values; all is put back at the end."""
    parameters = net.parameters()
    before = [(p, p.value, p.grad) for p in parameters.values()]
    drawing = [layer for _, layer in net.walk() if isinstance(layer, Drawing)] if isinstance(net, Layer) else []
    keys = [layer.key for layer in drawing]

    def rewind() -> None:
        for layer, key in zip(drawing, keys, strict=True):
            layer.key = key

    def call(x: Any, *values: Any) -> Run:
        for parameter, value in zip(parameters.values(), values, strict=True):
            parameter.value = value
        rewind()  # every call draws the same numbers
        y, ctx = net.apply(x)

        def backward(*dys: Any) -> tuple[Any, ...]:
            for parameter, value in zip(parameters.values(), values, strict=True):
                parameter.value = value  # a context refuses parameters that are not those of its forward
            net.zero_grad()
            dx = ctx.backward(*dys)
            return dx, *(p.grad for p in parameters.values())

        return Run(_outputs(y), ctx, backward)

    constant = frozenset(parameters if getattr(net, "frozen", False) else ())
    try:
        yield (
            Subject(type(net).__name__, ["x", *parameters], call, constant),
            [to_host(p.value) for p in parameters.values()],
        )
    finally:
        rewind()
        for parameter, value, grad in before:
            parameter.value, parameter.grad = value, grad


def with_absent(op: Op, arrays: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments left out count as None."""
    return arrays if op.variadic else arrays + (None,) * (len(op.arrays) - len(arrays))


def _outputs(y: Any) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(to_host(a)) for a in (y if isinstance(y, tuple | list) else (y,)))


def _names(fn: Any, count: int) -> list[str]:
    """The names of the first `count` positional arguments."""
    names: list[str] = []
    with contextlib.suppress(ValueError, TypeError):  # a builtin without a signature
        for p in inspect.signature(fn).parameters.values():
            if p.kind is p.VAR_POSITIONAL:
                names += [f"{p.name}{i}" for i in range(count - len(names))]
            elif p.kind is not p.KEYWORD_ONLY and p.kind is not p.VAR_KEYWORD:
                names.append(p.name)
    return names[:count] + [f"input{i}" for i in range(len(names), count)]


def kept_arrays(kept: Any) -> Iterator[np.ndarray]:
    """Every array that a forward kept: in a context and the contexts inside it, in tuples, lists and dictionaries."""
    pending: list[Any] = [kept]
    seen: set[int] = set()
    while pending:
        item = pending.pop()
        if id(item) in seen or isinstance(item, type) or hasattr(item, "apply"):
            continue
        seen.add(id(item))
        if isinstance(item, np.ndarray):
            yield item
        elif isinstance(item, Context):
            pending += item.saved
        elif isinstance(item, tuple | list):
            pending += item
        elif isinstance(item, dict):
            pending += item.values()
        elif hasattr(item, "__dict__"):
            pending += vars(item).values()
