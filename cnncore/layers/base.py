"""What a layer is: parameters, a forward that hands out its context, and a walk over nested layers.

    y, ctx = layer.apply(x)
    dx = ctx.backward(dy)             # adds to every Parameter.grad on the way
    ctx.backward(dy, dx=False)        # parameter gradients only: a first layer's dx is not computed

A layer keeps nothing of a call, so it may stand in a network twice; its gradients add up. `forward` and `backward` on a
layer (or network) are the same pair for those who do not want to hold the context: it keeps the outermost one only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self, TypeVar

import numpy as np

from ..backends.device import to_host
from ..errors import CnncoreError
from ..ops.op import Context as OpCall
from .contexts import Context, OpContext, OwnContext
from .parameter import Parameter, assign, check_state

T = TypeVar("T")


def _completed(apply: Callable[..., Any]) -> Callable[..., tuple[Any, Context]]:
    """A layer's `apply`, which may return a context with `backward(dy)` alone, made to return a whole Context."""

    @functools.wraps(apply)
    def complete(self: Layer, *args: Any, **named: Any) -> tuple[Any, Context]:
        result, who = apply(self, *args, **named), type(self).__name__
        if not isinstance(result, tuple) or len(result) != 2 or not hasattr(result[1], "backward"):
            raise CnncoreError(f"{who}: apply must return (y, context), with a method context.backward(dy)")
        y, context = result
        if not isinstance(context, Context):
            context = OwnContext(who, context, self.own_parameters(), not self.frozen)
        return y, context

    return complete


class Layer:
    """Base of all layers. A subclass defines `apply`; its attributes that are Parameters or Layers are found, and those
    in lists, tuples and dictionaries, as "layers.0".

    `apply(x)` returns y and a context. The context of a subclass of your own may have `backward(dy)` alone, which
    returns dx, or (dx, dw, ...) with a gradient for each of the layer's own parameters, in the order in which they were
    set.
    """

    training = True
    frozen = False
    _context: Context | None = None

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        owner = next(kind for kind in cls.__mro__ if "apply" in vars(kind))
        if owner is cls or not issubclass(owner, Layer):  # a mixin's, say
            cls.apply = _completed(cls.apply)  # type: ignore[method-assign]

    def apply(self, x: Any) -> tuple[Any, Context]:
        """y, and the context that `backward` is called on."""
        raise NotImplementedError(f"{type(self).__name__} defines no apply")

    def forward(self, x: Any) -> Any:
        """y alone; `backward` then refers to this call."""
        self._context = None  # frees the last call's memory before this one needs its own
        y, self._context = self.apply(x)
        return y

    def backward(self, dy: Any = None, dx: bool = True) -> Any:
        """The backward of the last `forward` (see `Context.backward`)."""
        if self._context is None:
            raise CnncoreError(f"{type(self).__name__}: backward needs a forward before it")
        return self._context.backward(dy, dx=dx)

    def __getstate__(self) -> dict[str, Any]:
        """All but the last call: a copy has not run yet."""
        return {name: value for name, value in vars(self).items() if name != "_context"}

    def children(self) -> dict[str, Layer]:
        """The layers directly inside this one, by name. Raises CnncoreError for layers that have no name: in a set."""
        return _inside(self, Layer)

    def walk(self, name: str = "") -> Iterator[tuple[str, Layer]]:
        """This layer and all layers inside it, by dotted name; one that stands twice comes once, first name."""
        seen: set[int] = set()  # ids: a layer of a user's own may be a dataclass, and those have no hash
        pending: list[tuple[str, Layer]] = [(name, self)]
        while pending:
            path, layer = pending.pop()
            if id(layer) not in seen:
                seen.add(id(layer))
                yield path, layer
                pending += [(_join(path, key), child) for key, child in reversed(layer.children().items())]

    def own_parameters(self) -> dict[str, Parameter]:
        """The parameters of this layer alone."""
        return _inside(self, Parameter)

    def parameters(self) -> dict[str, Parameter]:
        """All parameters, by dotted name ("0.weight"); a shared one comes once, under its first name."""
        first_name: dict[Parameter, str] = {}
        for path, layer in self.walk():
            for key, parameter in layer.own_parameters().items():
                first_name.setdefault(parameter, _join(path, key))
        return {name: parameter for parameter, name in first_name.items()}

    def context(self, call: OpCall, **parameters: Parameter | None) -> OpContext:
        """The context of a layer that is one op. parameters: those that it read, by the names of the op's arguments;
        None for one that is not there. A frozen layer's get no gradients."""
        return OpContext(call, {name: p for name, p in parameters.items() if p is not None}, not self.frozen)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters().values():
            parameter.grad = None

    def train(self) -> Self:
        """Training mode for this layer and all inside it; takes back `freeze`. Returns self."""
        return self._switch(training=True, frozen=False)

    def eval(self) -> Self:
        """Evaluation mode: dropout is the identity. Gradients are still there, but for frozen layers'. Returns self."""
        for _, layer in self.walk():
            layer.training = False
        return self

    def freeze(self) -> Self:
        """Inference: evaluation mode, and backward computes dx alone, no parameter gradients. Returns self."""
        self.zero_grad()
        return self._switch(training=False, frozen=True)

    def _switch(self, training: bool, frozen: bool) -> Self:
        for _, layer in self.walk():
            layer.training, layer.frozen = training, frozen
        return self

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters, and "<layer>.key" (uint64: seed, counter) of every layer that draws."""
        state = {name: np.array(to_host(p.value)) for name, p in self.parameters().items()}
        for path, layer in self.walk():
            if isinstance(layer, Drawing):
                state[_join(path, "key")] = np.array(layer.key, np.uint64)
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over a `state_dict`; nothing changes unless all of it fits.

        Raises CnncoreError (missing or unknown names), ShapeError, DTypeError.
        """
        check_state("load_state_dict", self.state_dict(), state)
        for name, parameter in self.parameters().items():
            assign(parameter.value, state[name])
        for path, layer in self.walk():
            if isinstance(layer, Drawing):
                seed, counter = state[_join(path, "key")]
                layer.key = (int(seed), int(counter))

    def describe(self) -> str:
        """The arguments, for repr."""
        return ""

    def __repr__(self) -> str:
        inside = "".join(f"\n  ({name}): " + repr(c).replace("\n", "\n  ") for name, c in self.children().items())
        return f"{type(self).__name__}({self.describe()}{inside}" + ("\n)" if inside else ")")


class Drawing(Layer):
    """Base of the layers that draw. `key`, a Philox key (seed, counter), is part of the state; the subclass sets it."""

    key: tuple[int, int]

    def draw(self, op: Callable[..., Any], x: Any, **attrs: Any) -> tuple[Any, Context]:
        """Call an op with `key` as its randomness, and count the key one up."""
        y, call = op(x, self.key, **attrs)
        self.key = (self.key[0], (self.key[1] + 1) % 2**64)
        return y, OpContext(call)


def _inside(layer: Layer, kind: type[T]) -> dict[str, T]:
    """A layer's attributes of a kind by name, and those in its lists, tuples and dictionaries as "name.key"."""
    found: dict[str, T] = {}
    pending: list[tuple[str, Any]] = list(vars(layer).items())[::-1]
    while pending:
        name, value = pending.pop()
        if isinstance(value, kind):
            if name in found:
                raise CnncoreError(f"{type(layer).__name__}: two of its {kind.__name__.lower()}s are called {name}")
            found[name] = value
        elif isinstance(value, list | tuple | dict):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            pending += [(f"{name}.{key}", item) for key, item in items][::-1]
        elif isinstance(value, set | frozenset) and any(isinstance(item, kind) for item in value):
            raise CnncoreError(f"{type(layer).__name__}: {name} must be a list: what is in a set has no name")
    return found


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
