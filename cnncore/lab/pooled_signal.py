"""What pooling keeps of an image (figure 2), and whether redundant maps give the image back (section 2.1).

Two looks at every pooling regime:

kept      Real digits, pooled in windows of 2x2, 4x4 and 7x7 and enlarged again: how alike picture and digit are
          (correlation), and how bright the brightest point still is (section 2.2: the average dilutes).
recovery  Section 2.1: "all forms of lp pooling preserve the signal provided the feature maps are sufficiently
          redundant." A digit x goes through K random 5x5 filters, ReLU, and pooling in windows of 2x2; redundancy is
          the number of pooled values for each pixel, K / 4. Gradient descent (recovery.py) looks for an image z with
          the same pooled maps; its error is |z - x| / |x|.

An image that is not recovered is "ambiguous" where z has the pooled maps of x nevertheless, and "stuck" where descent
found no such maps: then the signal may be there, only not to be had so.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import data, ops, plots
from ..backends.philox import uniform
from ..errors import CnncoreError
from ..layers import Layer, Sequential
from ..layers.init import draw
from ..ops.geometry import integer
from ..ops.pool_names import named
from ..progress import Progress
from ..tables import print_table
from . import pooled_signal_plots as pictures
from .recovery import Fixed, recover, relative

WINDOWS = (2, 4, 7)  # of `kept`; all divide 28
DIGITS = 200  # that the figures of `kept` are the means of
DRAWS = 3  # of stochastic pooling in its picture
FILTER, WINDOW = 5, 2  # of the recovery
CLOSE = 0.01  # the relative error below which images, and maps, are the same
SUBSAMPLED, STOCHASTIC, KNOWN = "subsampled", "stochastic", "stochastic, winners known"


@dataclass(frozen=True)
class Size:
    """How much is recovered."""

    redundancies: tuple[float, ...]
    images: int
    steps: int


FULL = Size((0.5, 1, 2, 4, 8, 16), images=3, steps=300)
QUICK = Size((0.5, 2, 8), images=2, steps=200)

# Names of pools, as `pool=` takes them, and one more: an element of every window, always the same one.
REGIMES = (SUBSAMPLED, "avg", "lp2", "lp4", "gaussian_lp2", "max", "entropy", "expectation", STOCHASTIC)


def regime(name: str, window: int, u: np.ndarray) -> Layer:
    """The layer, with the uniforms to draw with. The stride is the window, so all keep as many values; the windows of
    Gaussian lp pooling overlap (section 2.4): they are twice as wide."""
    if name == SUBSAMPLED:
        return Fixed(ops.max_pool, kernel=1, stride=window)
    variant, attrs = named("lab pooled-signal", name)
    where: dict[str, Any] = {"kernel": window}
    if "sigma" in variant.attrs:
        padding = ((window // 2, window - window // 2),) * 2
        where = {"kernel": 2 * window, "stride": window, "padding": padding, "sigma": window / 2}
    return Fixed(ops.registry[variant.name].function, *([u] if variant.draws else []), **where, **attrs)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", type=int, default=0, metavar="N", help="the test digit to begin with (default: 0)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    size = QUICK if args.quick else FULL
    digits = data.mnist10k()[1][0]
    first = integer("lab pooled-signal", "image", args.image, 0)
    if first + size.images > len(digits):
        raise CnncoreError(f"lab pooled-signal: --image must be at most {len(digits) - size.images}, got {first}")
    x = digits[first : first + size.images]
    kept = [kept_by(name, digits[:DIGITS], args.seed) for name in REGIMES]
    points, recovered = recoveries(x, size, range(args.seed, args.seed + args.seeds), quiet=args.json)
    result: dict[str, Any] = {"kept": kept, "points": points, "verdict": verdict(points), "pictures": []}
    if not plots.missing():
        result["pictures"] = ["kept.png", "recovery.png", "recovered.png"]
        kept_path, errors_path, recovered_path = (args.run_dir / name for name in result["pictures"])
        columns = ["original", *(f"{window}x{window}" for window in WINDOWS)]
        pictures.tiles(kept_path, columns, kept_tiles(x[:1], args.seed))
        pictures.errors(errors_path, by_regime(points), CLOSE)
        columns = ["original", *(f"redundancy {redundancy:g}" for redundancy in size.redundancies)]
        pictures.tiles(recovered_path, columns, recovered)
    return result


# --- what pooling keeps of a picture ---


def enlarged(name: str, x: np.ndarray, window: int, key: tuple[int, int]) -> np.ndarray:
    """x (N, C, H, W) pooled, then every pooled value repeated over its window."""
    u = uniform(key, (*x.shape[:2], x.shape[2] // window, x.shape[3] // window))
    pooled, _ = regime(name, window, u).apply(x)
    return _repeated(pooled, window)


def _repeated(a: np.ndarray, window: int) -> np.ndarray:
    return a.repeat(window, axis=2).repeat(window, axis=3)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's, of all elements; 0 where one of the two is flat and shows nothing of the other."""
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) if a.std() and b.std() else 0.0


def kept_by(name: str, x: np.ndarray, seed: int) -> dict[str, Any]:
    """One regime's means over x by window: the correlation with the digit, and the brightest point over the digit's."""
    found = [enlarged(name, x, window, (seed, 2)) for window in WINDOWS]
    return {
        "regime": name,
        "correlation": [float(np.mean([correlation(*pair) for pair in zip(y, x, strict=True)])) for y in found],
        "peak": [float(np.mean(y.max(axis=(1, 2, 3)) / x.max(axis=(1, 2, 3)))) for y in found],
    }


def kept_tiles(x: np.ndarray, seed: int) -> list[pictures.Row]:
    """Figure 2's rows for one digit x (1, 1, H, W)."""
    rows = []
    for name in REGIMES:
        for number in range(DRAWS if name == STOCHASTIC else 1):
            found = [enlarged(name, x, window, (seed, 2 + number)) for window in WINDOWS]
            tiles = [(y[0, 0], f"r {correlation(y, x):.2f}, peak {y.max():.2f}") for y in found]
            rows.append((f"{name}, draw {number + 1}" if name == STOCHASTIC else name, [(x[0, 0], ""), *tiles]))
    return rows


# --- recovery ---


def measurements(filters: np.ndarray, x: np.ndarray, seed: int) -> dict[str, Layer]:
    """By regime: from an image to its pooled maps.

    A draw is part of the measurement, and its uniforms are fixed; but which element they pick depends on the maps, so
    stochastic pooling jumps. It is there a second time with the elements that it picks for x known.
    """
    maps_of = Sequential(Fixed(ops.conv, filters, padding=FILTER // 2), Fixed(ops.relu))
    maps, _ = maps_of.apply(x)
    u = uniform((seed, 2), (*maps.shape[:2], maps.shape[2] // WINDOW, maps.shape[3] // WINDOW))
    pools = {name: regime(name, WINDOW, u) for name in REGIMES}
    pools[KNOWN] = winners_known(pools[STOCHASTIC], maps)
    return {name: Sequential(maps_of, pool) for name, pool in pools.items()}


def winners_known(pool: Layer, maps: np.ndarray) -> Layer:
    """What `pool` draws from `maps`, at fixed places: the sum over every window of the element drawn, or, where nothing
    was drawn, of them all: 0 then says that none is positive.

    The gradient of a draw is 1 at the winner and 0 elsewhere, which is the mask wanted. Dropout is the op that takes a
    mask; it doubles what it keeps, which changes nothing here.
    """
    pooled, ctx = pool.apply(maps)
    winners = ctx.backward(np.ones_like(pooled))
    keep = np.where(_repeated(pooled == 0, WINDOW), np.ones_like(winners), winners)
    return Sequential(Fixed(ops.dropout, keep, p=0.5), Fixed(ops.lp_pool, kernel=WINDOW, p=1))


def recoveries(x: np.ndarray, size: Size, seeds: range, quiet: bool) -> tuple[list[dict[str, Any]], list[pictures.Row]]:
    """A record for every regime and redundancy, over all seeds and images; and the first image beside what every regime
    gives back of it with the first seed. A seed decides filters, start and draw."""
    counts = [round(redundancy * WINDOW**2) for redundancy in size.redundancies]
    names = [*REGIMES, KNOWN]
    found: dict[tuple[str, int], list[tuple[float, float]]] = {(name, count): [] for name in names for count in counts}
    tiles: dict[str, list[pictures.Tile]] = {name: [(x[0, 0], "")] for name in names}
    with Progress(len(seeds) * sum(counts) * len(names), quiet=quiet) as bar:
        for seed in seeds:
            filters = draw("lab pooled-signal", (max(counts), 1, FILTER, FILTER), "he", seed, np.float32).value
            start = uniform((seed, 1), x.shape) / 2
            for count in counts:
                for name, maps_of in measurements(filters[:count], x, seed).items():  # more maps: the same, and others
                    bar.advance(0, f"seed {seed}, {count} maps: {name}")
                    z, misfit = recover(maps_of, x, start, size.steps)
                    error = relative(z, x)
                    found[name, count] += zip(error.tolist(), misfit.tolist(), strict=True)
                    if seed == seeds[0]:
                        tiles[name].append((z[0, 0], f"{error[0]:.1%} off"))
                    bar.advance(count, f"seed {seed}, {count} maps: {name}")
            bar.line(f"seed {seed}: {len(x)} images looked for in {len(names)} regimes")
    points = [record(name, count, *np.array(pairs).T) for (name, count), pairs in found.items()]
    return points, list(tiles.items())


def record(name: str, maps: int, errors: np.ndarray, misfits: np.ndarray) -> dict[str, Any]:
    """One regime at one redundancy."""
    missed, matched = errors >= CLOSE, misfits < CLOSE
    return {
        "regime": name,
        "maps": maps,
        "redundancy": maps / WINDOW**2,
        "mean": float(errors.mean()),
        "deviation": float(errors.std()),
        "recovered": int((~missed).sum()),
        "ambiguous": int((missed & matched).sum()),
        "stuck": int((missed & ~matched).sum()),
        "errors": errors.tolist(),
        "misfits": misfits.tolist(),
    }


# --- what it comes to ---


def by_regime(points: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The points of every regime, in their order: by rising redundancy."""
    names = dict.fromkeys(point["regime"] for point in points)
    return {name: [point for point in points if point["regime"] == name] for name in names}


def enough(line: Sequence[dict[str, Any]]) -> float | None:
    """The redundancy from which on every image is recovered, or None."""
    found = None
    for point in reversed(line):
        if point["recovered"] < len(point["errors"]):
            break
        found = point["redundancy"]
    return found


def rises(line: Sequence[dict[str, Any]]) -> list[str]:
    """The steps of redundancy at which the mean error grows; where images count as recovered, that is rounding."""
    pairs = itertools.pairwise(line)
    return [f"worse at {b['redundancy']:g}" for a, b in pairs if b["mean"] > max(a["mean"], CLOSE)]


def verdict(points: Sequence[dict[str, Any]]) -> list[str]:
    """Section 2.1's statement against the points, in sentences."""
    lines = by_regime(points)
    better = [name for name, line in lines.items() if not rises(line)]
    worse = [f"{name} ({', '.join(rises(line))})" for name, line in lines.items() if rises(line)]
    needed = {name: enough(line) for name, line in lines.items()}
    held = [f"{name} ({redundancy:g})" for name, redundancy in needed.items() if redundancy is not None]
    sentences = [
        f"Redundancy helps: the mean error falls with every step of it in {len(better)} of {len(lines)} regimes"
        + (f", but not in {', '.join(worse)}." if worse else "."),
        f"Within {CLOSE:.0%} of every image, and from which redundancy on: {', '.join(held) or 'no regime'}.",
    ]
    for name in lines:
        if needed[name] is None:
            last = lines[name][-1]
            sentences.append(
                f"Not {name}: at redundancy {last['redundancy']:g} the mean error is {last['mean']:.1%}. Of "
                f"{len(last['errors'])} images {last['recovered']} are recovered, {last['ambiguous']} ambiguous, "
                f"{last['stuck']} stuck (mean misfit of the maps {np.mean(last['misfits']):.1%})."
            )
    return sentences


def show(result: dict[str, Any], run_dir: Path) -> None:
    print_table(
        f"figure 2: digits pooled and enlarged again, means over {DIGITS}",
        ["regime", *(f"{what} {w}x{w}" for what in ("correlation", "peak") for w in WINDOWS)],
        [[kept["regime"], *(f"{value:.3f}" for value in kept["correlation"] + kept["peak"])]
         for kept in result["kept"]],
    )  # fmt: skip
    lines = by_regime(result["points"])
    some = next(iter(lines.values()))
    columns = ["redundancy", *(f"{point['redundancy']:g}" for point in some)]
    print_table(
        f"section 2.1: error |z - x| / |x|, mean ± deviation of {len(some[0]['errors'])} recoveries",
        columns,
        [[name, *(f"{p['mean']:.2g} ± {p['deviation']:.1g}" for p in line)] for name, line in lines.items()],
    )
    print_table(
        f"recovered (within {CLOSE:.0%}) / ambiguous (another image, the same maps) / stuck (other maps)",
        columns,
        [
            [name, *(f"{p['recovered']} / {p['ambiguous']} / {p['stuck']}" for p in line)]
            for name, line in lines.items()
        ],
    )
    print("", *result["verdict"], sep="\n")
