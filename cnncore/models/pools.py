"""Pooling by name: what `pool=` means for every network here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..errors import CnncoreError
from ..layers import HeteroPool2d, Layer, named_pool, seeds

Pools = str | Sequence[str]
Maker = Callable[..., Layer]  # kernel_size, stride, other geometry by name


def pooling(network: str, pool: Pools, stages: int, seed: int) -> Iterator[Maker]:
    """What makes the pooling layer of each stage of a network, in order: `pools = ...; next(pools)(3, 2)`, and
    `next(pools)()` for one over all of S.

    pool: a name for all stages, or a list of one for each. A name is one that `ops.pool_names.named` knows ("max",
        "lp4", "stochastic"), or several joined by + ("max+avg"): equal shares of the maps for each, as HeteroPool2d
        does.
    seed: the network's. Those that draw get seeds of their own from it, so that the first weights of a network do not
        depend on its pooling.
    Raises CnncoreError, naming the network, for another number of names or, from the maker, an unknown one.
    """
    names = list(pool) if isinstance(pool, list | tuple) else [pool] * stages
    if len(names) != stages:
        raise CnncoreError(f"{network}: pool must be one name or a list of {stages}, one for each stage; got {pool!r}")
    own = seeds(next(seeds(seed)))
    return iter([maker(network, name, next(own)) for name in names])


def maker(network: str, name: Any, seed: int) -> Maker:
    """What makes one pooling layer by a name that `pooling` takes, of a given seed."""

    def make(kernel_size: Any = None, stride: Any = None, **geometry: Any) -> Layer:
        if kernel_size is not None and isinstance(name, str) and "+" in name:
            several = dict.fromkeys(name.split("+"))
            for one in several:
                named_pool(network, one, 2)
            return HeteroPool2d(dict.fromkeys(several, 1 / len(several)), kernel_size, stride, seed=seed, **geometry)
        return named_pool(network, name, 2, kernel_size, stride=stride, seed=seed, **geometry)

    return make
