"""What pooling is called: one table of names, read from the registry, for `pool=`, HeteroPool, the lab and the pages.

    POOLS["lp"]                 the pooling op lp_pool, as a Variant
    named("lenet", "lp4")       that op, and the attributes that the name stands for: {"p": 4.0, "normalize": True}

A pooling op is in the table because it is registered: `median_pool` is called "median".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..errors import CnncoreError
from .pool_walk import Number, Variant
from .records import registry

NUMBERED = re.compile(r"(.*?)(\d+(?:\.\d+)?|inf)")


class _Pools(Mapping[str, Variant]):
    """Read-only view of the registry: the pooling ops that have layers, by name, in the order of registration."""

    def _made(self) -> dict[str, Variant]:
        made = [getattr(op.rule, "variant", None) for op in registry.values()]
        return {v.name.removesuffix("_pool"): v for v in made if v is not None and v.shown.layer and not v.whole}

    def __getitem__(self, name: str) -> Variant:
        return self._made()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made())

    def __len__(self) -> int:
        return len(self._made())


POOLS: Mapping[str, Variant] = _Pools()


class Named(NamedTuple):
    """A pooling op, and the attributes that its name stands for."""

    variant: Variant
    attrs: dict[str, Any]


def numbered(variant: Variant) -> dict[str, float]:
    """The attribute that a number behind the name gives, the op's first numeric one, and its default; or nothing."""
    return next(({name: kind.default} for name, kind in variant.attrs.items() if isinstance(kind, Number)), {})


def named(who: str, name: str) -> Named:
    """What a pool is called: a name in POOLS, or one with a number behind it.

    The number is p ("lp4", "gaussian_lp12", "lpinf") or power ("stochastic2", "expectation1.5"); in general the op's
    first numeric attribute. Raises CnncoreError, in the name of `who`, where no pool is called so.
    """
    pools = dict(POOLS)
    base, number = name if isinstance(name, str) else "", None
    if base not in pools and (found := NUMBERED.fullmatch(base)):
        base, number = found.groups()
    attrs = numbered(pools[base]) if base in pools else {}
    if base not in pools or (number and not attrs):
        takes = ", ".join(known for known, variant in pools.items() if numbered(variant))
        raise CnncoreError(
            f"{who}: pool must be one of {', '.join(pools)}; {takes} may have a number behind them (lp4); got {name!r}"
        )
    if number:
        attrs = dict.fromkeys(attrs, float(number))
    return Named(pools[base], {**attrs, **pools[base].shown.named})
