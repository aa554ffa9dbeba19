"""HeteroPool: different pooling for different maps; and POOLS, what pools are called."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .. import ops
from ..errors import CnncoreError, ShapeError
from ..ops import registry
from ..ops.scalars import plain
from . import pool as p
from .base import Layer, by_rank, check_rank
from .containers import joined
from .contexts import Context
from .init import seed_or_next, seeds

# name -> the layer, the same over all of S, and arguments, the first that which a number behind the name gives.
POOLS: dict[str, tuple[type[p.Pool], type[p.Pool], dict[str, Any]]] = {
    "max": (p.MaxPool, p.GlobalMaxPool, {}),
    "avg": (p.AvgPool, p.GlobalAvgPool, {}),
    "lp": (p.LPPool, p.GlobalLPPool, {"norm_type": 2.0, "normalize": True}),
    "gaussian_lp": (p.GaussianLPPool, p.GlobalGaussianLPPool, {"p": 2.0}),
    "stochastic": (p.StochasticPool, p.GlobalStochasticPool, {"power": 1.0}),
    "expectation": (p.ExpectationPool, p.GlobalExpectationPool, {"power": 1.0}),
    "entropy": (p.EntropyPool, p.GlobalEntropyPool, {}),
}
NUMBERED = re.compile(r"([a-z_]+?)(\d+(?:\.\d+)?|inf)?")


def named_pool(
    who: str, name: str, rank: int, kernel_size: Any = None, *, seed: int | None = None, **geometry: Any
) -> p.Pool:
    """The pooling layer called `name`, with its geometry by name; over all of S where there is no kernel_size.

    A number behind the name is p ("lp4", "gaussian_lp12", "lpinf") or power ("stochastic2", "expectation1.5"). "lp" is
    a mean (`normalize=True`), so that it lies between avg and max. A variant of your own, the op `<name>_pool`, is
    found too. `seed` is for those that draw. Raises CnncoreError, in the name of `who`, where no pool is called so.
    """
    found = NUMBERED.fullmatch(name) if isinstance(name, str) else None
    base, number = found.groups() if found else ("", None)
    entry = POOLS.get(base) or _of_op(base)
    if entry is None or (number and not entry[2]):
        numbered = ", ".join(known for known, (_, _, own) in POOLS.items() if own)
        raise CnncoreError(
            f"{who}: pool must be one of {', '.join(POOLS)}; {numbered} may have a number behind them (lp4); "
            f"got {name!r}"
        )
    local, whole, own = entry
    given = dict(own)
    if number:
        given[next(iter(own))] = float(number)
    if base == "stochastic":
        given["seed"] = seed
    if kernel_size is None:
        return by_rank(whole)[rank - 1](**given)
    return by_rank(local)[rank - 1](kernel_size=kernel_size, **given, **geometry)


def _of_op(base: str) -> tuple[type[p.Pool], type[p.Pool], dict[str, float]] | None:
    """The layers of a pooling op that is registered and not in POOLS."""
    if f"{base}_pool" not in registry:
        return None
    name = "".join(word.capitalize() for word in base.split("_")) + "Pool"
    local: type[p.Pool] = type(name, (p.Pool,), {"op": registry[f"{base}_pool"].function})
    return local, p.over_all(registry[f"global_{base}_pool"].function, f"Global{name}"), {}


class HeteroPool(Layer):
    """Pools some maps in one way and others in another, or every map in several ways; the results are concatenated.

    pools: {"max": 0.5, "avg": 0.25, "lp4": 0.25}   these shares of the maps, in this order: fractions that sum to 1
               (rounded to whole maps), or counts that sum to C, {"max": 24, "avg": 8}; y has as many maps as x
           ["max", "avg"]   all maps in each of these ways: y has twice as many maps as x

    Names are those of POOLS, with numbers as `named_pool` takes them. All ways have the same windows; `seed` is for
    those that draw.
    Raises CnncoreError (unknown pools, wrong shares) and, from `apply`, ShapeError (counts that do not sum to C, a
    fraction that comes to no map).
    Source: the paper's 2.3.
    """

    rank: int

    def __init__(
        self, pools: Mapping[str, float] | Sequence[str], kernel_size: int | Sequence[int], stride: Any = None,
        padding: Any = 0, *, dilation: Any = 1, ceil_mode: bool = False, seed: int | None = None,
    ) -> None:  # fmt: skip
        who, own = type(self).__name__, seeds(seed_or_next(seed))
        if not isinstance(pools, Mapping | list | tuple) or not pools:
            raise CnncoreError(f"{who}: pools must map names to shares, or be a list of names; got {pools!r}")
        self.names = list(pools)
        self.shares = _shares(who, pools) if isinstance(pools, Mapping) else None
        self.pools = [
            named_pool(
                who, name, self.rank, kernel_size,
                stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode, seed=next(own),
            )
            for name in pools
        ]  # fmt: skip

    def apply(self, x: Any) -> tuple[Any, Context]:
        check_rank(self, self.rank, x)
        if self.shares is None:
            return joined([pool.apply(x) for pool in self.pools], ops.concat)
        ends = self._ends(x.shape[1])
        parts = [
            pool.apply(ops.slice(x, start=start, stop=stop)[0])
            for pool, (start, stop) in zip(self.pools, itertools.pairwise((0, *ends)), strict=True)
        ]
        return joined(parts, ops.concat, merge=ops.concat)

    def _ends(self, maps: int) -> list[int]:
        """Where every share of the maps ends."""
        shares = self.shares or []
        whole = 1 if isinstance(shares[0], int) else maps
        ends = [round(whole * end) for end in itertools.accumulate(shares)]
        if ends[-1] != maps or any(start >= end for start, end in itertools.pairwise((0, *ends))):
            raise ShapeError(f"{type(self).__name__}: the {maps} maps of x cannot be shared out as {self.describe()}")
        return ends

    def children(self) -> dict[str, Layer]:
        return {str(i): pool for i, pool in enumerate(self.pools)}

    def describe(self) -> str:
        return str(dict(zip(self.names, self.shares, strict=True)) if self.shares else self.names)


def _shares(who: str, pools: Mapping[str, float]) -> list[float]:
    """Counts, or fractions whose sum is 1."""
    shares = [plain(share) for share in pools.values()]
    kind = type(shares[0])
    if kind not in (int, float) or any(type(share) is not kind or not share > 0 for share in shares):
        raise CnncoreError(f"{who}: shares must be positive, all counts (int) or all fractions (float); got {pools!r}")
    if kind is float and not abs(sum(shares) - 1) < 1e-9:
        raise CnncoreError(f"{who}: the fractions must sum to 1, got {sum(shares):g} from {pools!r}")
    return shares


HeteroPool1d, HeteroPool2d, HeteroPool3d = by_rank(HeteroPool)
