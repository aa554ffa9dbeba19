"""What one call of a layer keeps for its backward, and how such contexts are put together.

    Chain(first, second, ...)      layers run one after the other
    Join(paths, call)              parallel paths from one x, and the op that joined their outputs

A layer made of others composes their contexts with these two classes. It needs no other code for its backward:

    def apply(self, x):                                   # x + relu(conv(x))
        h, first = self.conv.apply(x)
        h, second = self.relu.apply(h)
        y, call = cc.ops.add(x, h)
        return y, Join([Chain(), Chain(first, second)], call)

Every gradient on its way back carries a note of who owns it. cnncore owns the new arrays that its ops return: nobody
else has seen them, so the next op may overwrite them. What a user's context receives as dy, or returns, cnncore never
overwrites; the user may keep it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from .. import ops
from ..errors import CnncoreError, ShapeError
from ..ops.op import Context as OpCall
from ..ops.writes import watch
from .parameter import Parameter


class Gradient(NamedTuple):
    """A gradient on its way back."""

    array: Any
    own: bool  # whether cnncore owns the array: nobody else reads it, so it may be overwritten


class Wants(NamedTuple):
    """What is asked of a backward."""

    dx: bool  # compute the gradients to the inputs
    last: bool  # drop every part, and the arrays that it kept, as soon as its backward is done


Gradients = tuple[Gradient | None, ...]


class Context:
    """What one call of a layer keeps for its backward. Subclasses define `pull` and say whether they learn."""

    learns: bool  # whether there are parameter gradients to compute

    def backward(self, *dys: Any, dx: bool = True, last: bool = False) -> Any:
        """Add the gradients of sum(dy * y) to the parameters. Return the gradient to x, or None where `dx` is False.

        There is one dy for each output of the layer, with its shape and dtype; None stands for a dy of zeros. If y is a
        scalar, dy may be left out. A layer with several inputs gets a tuple of gradients back.
        last: this is the last backward of the context. A context that holds others then drops each of them, and the
        arrays that it kept, as soon as its backward is done. Afterwards the context is used up.
        """
        given = tuple(None if dy is None else Gradient(dy, own=False) for dy in dys or (None,))
        found = tuple(g and g.array for g in self.pull(given, Wants(dx, last)))
        return found[0] if len(found) == 1 else found

    def pull(self, dys: Gradients, wants: Wants) -> Gradients:
        """`backward` as containers call it. Returns a gradient, or None, for each input of the layer."""
        raise NotImplementedError(f"{type(self).__name__} defines no pull")


class OpContext(Context):
    """The context of a layer that is one op. Its input is the op's first argument, unless `inputs` names others."""

    def __init__(
        self, call: OpCall, read: dict[str, Parameter] | None = None, learns: bool = True, inputs: Iterable[str] = ()
    ) -> None:
        """read: the parameters, by the names of the op's arguments. learns: whether these parameters get gradients."""
        self.call, self.inputs = call, tuple(inputs) or call.names[:1]
        self.learnt = dict(read) if read and learns else {}
        self.read = [(name, p, p.value, w := watch(p.value), w.count) for name, p in (read or {}).items()]
        self.learns = bool(self.learnt)

    def __repr__(self) -> str:
        return f"OpContext({self.call}, gradients for {', '.join(self.learnt) or 'no parameter'})"

    def pull(self, dys: Gradients, wants: Wants) -> Gradients:
        needs = [*self.inputs, *self.learnt] if wants.dx else list(self.learnt)
        if not needs:
            return (None,) * len(self.inputs)
        for name, parameter, value, writes, count in self.read:
            if parameter.value is not value or writes.count != count:
                raise CnncoreError(
                    f"{self.call.op.name}: the parameter {name}, of shape {tuple(value.shape)}, has changed since this "
                    "forward; call backward before the optimiser's step, or forward again"
                )
        found = self.call.backward(
            *(g and g.array for g in dys), needs=needs, spare=all(g is not None and g.own for g in dys)
        )
        gradients = dict(zip(self.call.names, found, strict=True))
        for name, parameter in self.learnt.items():
            parameter.accumulate(gradients[name])
        return tuple(None if (g := gradients[name]) is None else Gradient(g, own=True) for name in self.inputs)


class ViewContext(Context):
    """A layer that computes nothing: dx is another view of dy."""

    learns = False

    def __init__(self, view: Callable[[Any], Any]) -> None:
        self.view = view

    def __repr__(self) -> str:
        return "ViewContext()"

    def pull(self, dys: Gradients, wants: Wants) -> Gradients:
        (dy,) = dys
        return (Gradient(self.view(dy.array), dy.own) if dy and wants.dx else None,)


class OwnContext(Context):
    """Wraps a context that a user wrote, whose `backward` takes the dys alone.

    That backward returns dx, or dx and a gradient for each of `parameters`, which is added to its `grad`.
    """

    def __init__(self, who: str, context: Any, parameters: dict[str, Parameter], learns: bool) -> None:
        """parameters: the layer's own, in the order in which they were set as attributes."""
        self.who, self.context, self.parameters, self.learns = who, context, parameters, learns

    def __repr__(self) -> str:
        return f"OwnContext({type(self.context).__name__} of {self.who})"

    def pull(self, dys: Gradients, wants: Wants) -> Gradients:
        given = () if dys == (None,) else tuple(g and g.array for g in dys)
        found = self.context.backward(*given)
        if isinstance(found, tuple):
            found, *gradients = found
            self._accumulate(gradients)
        return (Gradient(found, own=False) if wants.dx and found is not None else None,)

    def _accumulate(self, gradients: list[Any]) -> None:
        while len(gradients) > len(self.parameters) and gradients[-1] is None:  # of arguments left out
            gradients.pop()
        if len(gradients) != len(self.parameters):
            raise CnncoreError(
                f"{self.who}: backward must give dx alone, or dx and the gradients of {len(self.parameters)} "
                f"parameters ({', '.join(self.parameters)}); got {len(gradients) + 1} gradients"
            )
        for (name, parameter), gradient in zip(self.parameters.items(), gradients, strict=True):
            if self.learns and gradient is not None:
                _check_gradient(self.who, name, parameter, gradient)
                parameter.accumulate(gradient, own=False)


def _check_gradient(who: str, name: str, parameter: Parameter, gradient: Any) -> None:
    shape, found = tuple(parameter.value.shape), tuple(getattr(gradient, "shape", ()))
    if found != shape:
        raise ShapeError(f"{who}: the gradient of {name} must have shape {shape}, got {found}")


class Composed(Context):
    """Base of the contexts that hold others."""

    def __init__(self, parts: Iterable[Context]) -> None:
        self.parts: tuple[Context, ...] | None = tuple(parts)  # None: used up
        self.learns = any(part.learns for part in self.parts)

    def __repr__(self) -> str:
        held = "used up" if self.parts is None else f"{len(self.parts)} parts"
        return f"{type(self).__name__}({held})"

    def take(self, last: bool) -> list[Context]:
        """The parts, for one backward. For the `last` backward this context drops them: the returned list alone holds
        them."""
        if self.parts is None:
            raise CnncoreError("backward: this context is used up: backward(last=True) was called on it before")
        parts = list(self.parts)
        if last:
            self.parts = None
        return parts


class Chain(Composed):
    """The contexts of layers that ran one after the other. An empty chain is the identity."""

    def __init__(self, *parts: Context) -> None:
        super().__init__(parts)

    def pull(self, dys: Gradients, wants: Wants) -> Gradients:
        parts = self.take(wants.last)
        # If dx is not wanted, backward ends at the first part that learns, and that part computes no dx either.
        first = 0 if wants.dx else next((i for i, part in enumerate(parts) if part.learns), len(parts))
        while len(parts) > first:
            part = parts.pop()  # so that its memory is free after its backward
            dys = part.pull(dys, Wants(wants.dx or len(parts) > first, wants.last))
        return dys if wants.dx else (None,)


class Join(Composed):
    """The contexts of parallel paths, and of the op that joined their outputs.

    merge: the op that computes dx from the gradients of the paths. It is ops.add if every path read all of x, and
        ops.concat if each path read a share of the maps of x.
    """

    def __init__(self, paths: Iterable[Context], call: OpCall, merge: Callable[..., Any] = ops.add) -> None:
        super().__init__(paths)
        self.call, self.merge = call, merge

    def pull(self, dys: Gradients, wants: Wants) -> Gradients:
        paths = self.take(wants.last)
        needs = [name for name, path in zip(self.call.names, paths, strict=True) if wants.dx or path.learns]
        if not needs:
            return (None,)
        gradients = self.call.backward(*(g and g.array for g in dys), needs=needs)
        found = [
            path.pull((Gradient(g, own=True),), wants)
            for path, g in zip(paths, gradients, strict=True)
            if g is not None
        ]
        if not wants.dx:
            return (None,)
        return (Gradient(self.merge(*(g.array for (g,) in found if g))[0], own=True),)
