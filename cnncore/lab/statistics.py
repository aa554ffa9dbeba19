"""What a few noisy repetitions allow to conclude."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..ops.scalars import whole

# Student's t: 95 % of the distribution with 1, 2, ... 30 degrees of freedom lie within plus and minus this.
T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """A mean, its standard error, and the half width of its 95 % interval (None, unknown, after one repetition)."""

    mean: float
    error: float | None
    margin: float | None


def estimate(values: np.ndarray) -> Estimate:
    """The mean of values (seeds,) or (seeds, images), as an estimate of that over all seeds and all images.

    error^2 = s^2(means of the seeds) / seeds + s^2(means of the images) / images, s^2 with n - 1. What varies neither
    with the seed alone nor with the image alone is in both terms: the error is too large rather than too small. The
    degrees of freedom are Welch and Satterthwaite's, rounded down and at most 30.
    """
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean, None, None)
    sides = [values.reshape(len(values), -1).mean(axis=1)]
    if values.ndim == 2:
        sides.append(values.mean(axis=0))
    variances = [float(side.var(ddof=1)) / len(side) for side in sides]
    total = sum(variances)
    if total == 0:
        return Estimate(mean, 0.0, 0.0)
    freedom = total**2 / sum(v**2 / (len(side) - 1) for v, side in zip(variances, sides, strict=True))
    return Estimate(mean, math.sqrt(total), T95[min(whole(freedom), len(T95)) - 1] * math.sqrt(total))


def verdict(found: Estimate, expected: str) -> str:
    """What the 95 % interval says to a claim that the quantity is "above" zero, "not above" it, or "zero"."""
    if found.margin is None:
        return "not shown (one repetition tells nothing about chance)"
    above, below = found.mean > found.margin, found.mean < -found.margin
    if expected == "above":
        return "shown" if above else "the opposite is shown" if below else "not shown (within chance)"
    if expected == "not above":
        if above or below:
            return "contradicted" if above else "shown"
        return f"not contradicted (more than {found.mean + found.margin:.2f} is excluded)"
    if above or below:
        return "contradicted"
    return f"not contradicted (a distance above {abs(found.mean) + found.margin:.2f} is excluded)"
