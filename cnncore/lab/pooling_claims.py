"""What `cnncore lab pooling` asks: groups of networks to compare, and what the paper says of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .pooling_nets import REGIMES, Net


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, and a sum of weighted measures of networks (in percentage points) whose sign decides."""

    section: str
    text: str
    weights: Mapping[str, int]
    measure: str = "test error"  # a name in MEASURES of pooling.py
    expected: str = "above"  # zero; or "zero", or "not above"


@dataclass(frozen=True)
class Group:
    """Networks by the names that the claims use."""

    title: str
    nets: Mapping[str, Net]
    claims: Sequence[Claim]
    lr: float = 0.02  # the same for all networks of a group; chosen for max pooling


def pooled(pool: str, dropout: float = 0.0, multi_stage: bool = False) -> Net:
    """The small network, with a pooling regime."""
    return {"network": "small", "pool": pool, "dropout": dropout, "multi_stage": multi_stage}


def stacked(unit: str, depth: int) -> Net:
    """The chain of convolutions, with a unit."""
    return {"network": "chain", "unit": unit, "depth": depth}


def less(worse: str, better: str) -> dict[str, int]:
    """What `better` has less than `worse`."""
    return {worse: 1, better: -1}


HALVES = "max+avg"
REGIME_CLAIMS = (
    Claim("2.2", "max pooling is better than average pooling", less("avg", "max")),
    Claim("2.3", "half max, half avg is as good as max", less("max", HALVES), expected="zero"),
    Claim("2.3", "half max, half avg converges more quickly than max", less("max", HALVES), "error after one epoch"),
    Claim("2.4", "the best norm is not the average: p = 4 is better", less("avg", "lp4")),
    Claim("2.4", "nor the maximum: p = 4 is better", less("max", "lp4")),
    Claim("2.4", "p = 4 under a Gaussian envelope is better than max", less("max", "gaussian_lp4")),
    Claim("2.5", "stochastic pooling overfits less than max", less("max", "stochastic"), "overfitting"),
    Claim("2.5", "stochastic pooling is better than max", less("max", "stochastic")),
    Claim("2.5", "training with the expectation overfits again", less("expectation", "stochastic"), "overfitting"),
    Claim("2.5", "drawing in proportion to squares is better still", less("stochastic", "stochastic2")),
    Claim("2.5", "entropy pooling is no better than max", less("max", "entropy"), expected="not above"),
)

UNITS = ("maxout", "relu, maxout", "relu")

DROPOUT = {"": 0.0, ", dropout": 0.25}


def helps_less(pool: str) -> Claim:
    """2.4: dropout averages models less well where p is finite."""
    weights = {f"{pool}, dropout": 1, pool: -1, "max, dropout": -1, "max": 1}
    return Claim("2.4", f"dropout helps {pool} less than max", weights)


STAGES = {"single-stage": False, "multi-stage": True}
SINGLE_STAGE = less("avg, single-stage", "max, single-stage")
MULTI_STAGE = less("avg, multi-stage", "max, multi-stage")
CLOSER = SINGLE_STAGE | {net: -weight for net, weight in MULTI_STAGE.items()}

GROUPS = {
    "regimes": Group("pooling regimes", {pool: pooled(pool) for pool in REGIMES}, REGIME_CLAIMS),
    "dropout": Group(
        "Lp pooling and dropout",
        {pool + name: pooled(pool, dropout) for pool in ("max", "lp2", "lp4") for name, dropout in DROPOUT.items()},
        (helps_less("lp2"), helps_less("lp4")),
    ),
    "maxout": Group(
        "maxout, ReLU before it, and depth",
        {f"{unit}, {depth} layers": stacked(unit, depth) for depth in (3, 7) for unit in UNITS},
        (
            Claim("2.6", "ReLU before maxout costs accuracy", less("relu, maxout, 3 layers", "maxout, 3 layers")),
            Claim("2.6", "also with 7 layers", less("relu, maxout, 7 layers", "maxout, 7 layers")),
            Claim("4.2", "maxout with 7 layers is better than with 3", less("maxout, 3 layers", "maxout, 7 layers")),
            Claim("4.2", "and better than ReLU", less("relu, 7 layers", "maxout, 7 layers")),
        ),
        lr=0.01,  # at 0.02 maxout with 7 layers diverged with the first seed
    ),
    "stages": Group(
        "average and max, in one stage and in several",
        {f"{pool}, {name}": pooled(pool, multi_stage=many) for name, many in STAGES.items() for pool in ("max", "avg")},
        (
            Claim("3.4", "with a single stage max is better than average", SINGLE_STAGE),
            Claim("3.4", "with several stages they are equal", MULTI_STAGE, expected="zero"),
            Claim("3.4", "several stages bring them closer", CLOSER),
        ),
    ),
}  # fmt: skip
