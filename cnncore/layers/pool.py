"""Pooling layers. Each follows from an op in `ops/pool.py`: its class, the same over all of S, and their arguments.

    MaxPool, MaxPool1d, MaxPool2d, MaxPool3d                                of `ops.max_pool`
    GlobalMaxPool, GlobalMaxPool1d, GlobalMaxPool2d, GlobalMaxPool3d        of `ops.global_max_pool`

The classes are attributes of this module, made when they are asked for: those of an op that is registered later, too.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ClassVar

from .. import ops
from ..errors import CnncoreError
from ..ops.pool_names import POOLS, named
from ..ops.pool_walk import Variant
from ..ops.scalars import plain
from .base import Drawing
from .contexts import Context, OpContext
from .fields import OP_NAMES, Declared, by_rank, check_rank
from .init import seed_or_next

BY_PLACE = ("kernel_size", "stride", "padding")  # arguments that may be given without their names


class Pool(Declared):
    """Base of the pooling layers: an op on windows of kernel_size, every `stride` (default: kernel_size) elements.

    kernel_size, stride and padding may be given by their place; all else, the op's own attributes too, by name.
    """

    rank: int
    op: ClassVar[Callable[..., Any]]
    drawing: ClassVar[Callable[..., Any] | None] = None  # the op that runs when training, where that one draws
    leads_as: ClassVar[dict[str, str]] = {}  # another name of the first argument -> its name
    __signature__: ClassVar[inspect.Signature]

    def __init_subclass__(cls, **named: Any) -> None:
        """The arguments follow from the op."""
        super().__init_subclass__(**named)
        if "op" in vars(cls):
            variant: Variant = (cls.drawing or cls.op).op.rule.variant  # type: ignore[attr-defined]
            cls.__signature__ = signature(variant)
            cls.leads_as = {variant.shown.leads_as: variant.shown.leads}

    def __init__(self, *args: Any, **given: Any) -> None:
        given = {self.leads_as.get(name, name): value for name, value in given.items()}
        try:
            bound = self.__signature__.bind(*args, **given)
        except TypeError as error:
            raise CnncoreError(f"{type(self).__name__}: {error}") from None
        bound.apply_defaults()
        fields = plain(bound.arguments)
        if "kernel_size" in fields and fields["stride"] is None:
            fields["stride"] = fields["kernel_size"]
        self.set_fields(**fields)

    def set_fields(self, **fields: Any) -> None:
        """Keep the arguments."""
        names = inspect.signature(type(self).op).parameters
        given = {OP_NAMES.get(name, name): value for name, value in fields.items()}
        self.attrs = {name: given[name] for name in names if name in given}

    def apply(self, x: Any) -> tuple[Any, Context]:
        return self.apply_as(type(self).op, x)

    def apply_as(self, op: Callable[..., Any], x: Any) -> tuple[Any, Context]:
        """`apply` with an op that takes what the layer's own does."""
        check_rank(self, self.rank, x)
        y, call = op(x, **self.attrs)
        return y, OpContext(call)

    def fields(self) -> dict[str, Any]:
        """In the op's order: an argument in front of kernel_size, as LPPool's, comes behind it by its name."""
        shown = {own: name for name, own in OP_NAMES.items()}
        return {shown.get(name, name): value for name, value in self.attrs.items()} | super().fields()


class DrawingPool(Pool, Drawing):
    """Base of the pooling layers that draw when training. In evaluation mode they run `op`, which does not.

    `key` is (seed, counter): every draw uses it and then counts one up.
    """

    def set_fields(self, **fields: Any) -> None:
        super().set_fields(**fields)
        self.key = (seed_or_next(fields["seed"]), 0)

    def apply(self, x: Any) -> tuple[Any, Context]:
        drawing = type(self).drawing
        if drawing is None or not (self.training or type(self).op is drawing):
            return super().apply(x)
        check_rank(self, self.rank, x)
        return self.draw(drawing, x, **self.attrs)


class GlobalPool(Pool):
    """Base of the pooling layers over all of S, whatever its size: (N, C, *S) to (N, C, 1, ...).

    Arguments are the op's attributes, by name.
    """


def signature(variant: Variant) -> inspect.Signature:
    """The arguments of a layer: the one that leads, the window's, the op's own, and the seed of its draws."""
    arguments: list[inspect.Parameter] = []
    for p in inspect.signature(variant.rule()).parameters.values():
        name = "kernel_size" if p.name == "kernel" else p.name
        if name == variant.shown.leads:
            arguments.insert(0, p.replace(kind=p.POSITIONAL_OR_KEYWORD, default=p.empty))
        elif name not in variant.arrays:
            arguments.append(p.replace(name=name, kind=p.POSITIONAL_OR_KEYWORD if name in BY_PLACE else p.kind))
    if variant.draws:
        arguments.append(inspect.Parameter("seed", inspect.Parameter.KEYWORD_ONLY, default=None))
    return inspect.Signature(arguments)


def _class_of(variant: Variant) -> type[Pool]:
    """The n-d layer of a pooling op."""
    shown, over = variant.shown, "global_" if variant.whole else ""
    function = ops.registry[variant.name].function
    evaluating = ops.registry[over + shown.evaluates].function if shown.evaluates else function
    bases = (GlobalPool,) * variant.whole + (DrawingPool,) * variant.draws or (Pool,)
    about = variant.doc.split("\n", 1)[0]
    if variant.draws:
        about += f" In evaluation mode: `ops.{evaluating.__name__}`."
    body = {
        "__doc__": f"{about}\n\n    The layer of `ops.{variant.name}`, with the arguments {signature(variant)}.",
        "__module__": __name__,
        "op": evaluating,
        "drawing": function if variant.draws else None,
    }
    return type(f"{'Global' if variant.whole else ''}{shown.layer}", bases, body)


@functools.cache
def layers_of(variant: Variant) -> dict[str, type[Pool]]:
    """The layers of a pooling op by their names, with their number of axes and without."""
    made: list[type[Pool]] = []
    for one in (variant, variant.over_all()):
        kind = _class_of(one)
        made += [kind, *by_rank(kind)]
    return {kind.__name__: kind for kind in made}


def named_pool(
    who: str, name: str, rank: int, kernel_size: Any = None, *, seed: int | None = None, **geometry: Any
) -> Pool:
    """The pooling layer called `name`, with its geometry by name; over all of S where there is no kernel_size.

    Names are those of `ops.pool_names.POOLS`, with a number behind them or without: "max", "lp4", "gaussian_lp12",
    "lpinf", "stochastic2". "lp" is a mean (`normalize=True`), so that it lies between avg and max. A pooling op of your
    own is found too. `seed` is for those that draw. Raises CnncoreError, in the name of `who`, where no pool is called
    so.
    """
    variant, given = named(who, name)
    if variant.draws:
        given["seed"] = seed
    layer = f"{variant.shown.layer}{rank}d"
    if kernel_size is None:
        return layers_of(variant)[f"Global{layer}"](**given)
    return layers_of(variant)[layer](kernel_size=kernel_size, **given, **geometry)


def __getattr__(name: str) -> Any:
    for variant in POOLS.values():
        if (variant.shown.layer or "") in name and name in (made := layers_of(variant)):
            return made[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *made_names()]


def made_names() -> list[str]:
    """The names of the layers of all pooling ops."""
    return [name for variant in POOLS.values() for name in layers_of(variant)]
