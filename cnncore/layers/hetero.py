"""HeteroPool: different pooling for different maps."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from .. import ops
from ..errors import CnncoreError, ShapeError
from ..ops.scalars import plain
from .base import Layer
from .containers import joined
from .contexts import Context
from .fields import Declared, by_rank, check_rank
from .init import seed_or_next, seeds
from .pool import named_pool


class HeteroPool(Declared):
    """Pools some maps in one way and others in another, or every map in several ways; the results are concatenated.

    pools: {"max": 0.5, "avg": 0.25, "lp4": 0.25}   these shares of the maps, in this order: fractions that sum to 1
               (rounded to whole maps), or counts that sum to C, {"max": 24, "avg": 8}; y has as many maps as x
           ["max", "avg"]   all maps in each of these ways: y has twice as many maps as x

    Names are those that `named_pool` takes. All ways have the same windows; `seed` is for those that draw.
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
        self.shares = _shares(who, pools) if isinstance(pools, Mapping) else None
        self.pools = dict(zip(pools, self.shares, strict=True)) if self.shares else list(pools)
        self.layers = [
            named_pool(
                who, name, self.rank, kernel_size,
                stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode, seed=next(own),
            )
            for name in pools
        ]  # fmt: skip

    def apply(self, x: Any) -> tuple[Any, Context]:
        check_rank(self, self.rank, x)
        if self.shares is None:
            return joined([pool.apply(x) for pool in self.layers], ops.concat)
        ends = self._ends(x.shape[1])
        parts = [
            pool.apply(ops.slice(x, start=start, stop=stop)[0])
            for pool, (start, stop) in zip(self.layers, itertools.pairwise((0, *ends)), strict=True)
        ]
        return joined(parts, ops.concat, merge=ops.concat)

    def _ends(self, maps: int) -> list[int]:
        """Where every share of the maps ends."""
        shares = self.shares or []
        whole = 1 if isinstance(shares[0], int) else maps
        ends = [round(whole * end) for end in itertools.accumulate(shares)]
        if ends[-1] != maps or any(start >= end for start, end in itertools.pairwise((0, *ends))):
            raise ShapeError(f"{type(self).__name__}: the {maps} maps of x cannot be shared out as {self.pools}")
        return ends

    def children(self) -> dict[str, Layer]:
        return {str(i): pool for i, pool in enumerate(self.layers)}


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
