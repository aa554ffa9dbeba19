"""Does conv's "auto" choose well? `python bench/algorithms.py` times "direct" and "winograd" on a grid of layers.

Forward, backward to x and backward to w each make their own choice. For each: milliseconds of both, taking turns, what
auto chose (its result has that algorithm's bits), and the regret: how much longer the choice took than the better one.
Written: bench/results/algorithms.md and algorithms.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from turns import Calls, take_turns

import cnncore as cc
from cnncore.backends import launch, native

RESULTS = Path(__file__).parent / "results"
IMAGES = (1, 16)
CHANNELS = ((8, 16), (16, 16), (16, 64), (64, 16), (64, 64), (256, 256))
SIZES = (6, 8, 13, 28)
KERNELS = (3, 5)
DIRECTIONS = ("forward", "dx", "dw")
MOST = 4e9  # FLOPs of the largest layer; larger ones are as these


def layers() -> Iterator[tuple[int, int, int, int, int]]:
    for kernel, n, (c, k), size in itertools.product(KERNELS, IMAGES, CHANNELS, SIZES):
        if 2 * n * c * k * size**2 * kernel**2 <= MOST:
            yield n, c, k, size, kernel


def calls(n: int, c: int, k: int, size: int, kernel: int, algorithm: str) -> Calls:
    """Each direction of one layer, channels last, image and result of one size."""
    rng = np.random.default_rng(0)
    x, dy = (launch.dense(rng.standard_normal((n, maps, size, size), np.float32), True) for maps in (c, k))
    w = rng.standard_normal((k, c, kernel, kernel), np.float32)
    attrs: dict[str, Any] = {"padding": kernel // 2, "algorithm": algorithm}
    _, ctx = cc.ops.conv(x, w, **attrs)
    return {
        "forward": lambda: cc.ops.conv(x, w, **attrs)[0],
        "dx": lambda: ctx.backward(dy, needs=("x",))[0],
        "dw": lambda: ctx.backward(dy, needs=("w",))[1],
    }


def measure(layer: tuple[int, int, int, int, int], seconds: float) -> list[dict[str, Any]]:
    found = {algorithm: calls(*layer, algorithm) for algorithm in ("direct", "winograd", "auto")}
    rows = []
    for direction in DIRECTIONS:
        sides = {algorithm: found[algorithm][direction] for algorithm in ("direct", "winograd")}
        chosen = "winograd" if np.array_equal(found["auto"][direction](), sides["winograd"]()) else "direct"
        best = {name: min(t) for name, t in take_turns(sides, seconds).items()}
        regret = best[chosen] / min(best.values()) - 1
        rows.append({"layer": layer, "direction": direction, **best, "chosen": chosen, "regret": regret})
    return rows


def table(rows: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    """Markdown: a layer a line; per direction direct / Winograd ms, the choice in bold, its regret where over 5 %."""
    right = sum(row["regret"] == 0 for row in rows)
    mean, worst = (100 * float(f([row["regret"] for row in rows])) for f in (np.mean, np.max))
    took = sum(row[row["chosen"]] for row in rows) / sum(min(row["direct"], row["winograd"]) for row in rows)
    lines = [
        '## Which algorithm "auto" chooses',
        "",
        f"{machine['cpu']}, {machine['threads']} threads, {machine['isa']}. `python bench/algorithms.py`",
        "",
        "Direct / Winograd in ms, auto's choice in bold; in brackets what it cost over the better one, from 5 % on.",
        f"The choice was right in {right} of {len(rows)} cases. On average it took {mean:.1f} % longer than the better",
        f"one, at worst {worst:.0f} %. All together they took {100 * (took - 1):.1f} % longer than the better choices.",
        "",
        "| N, C -> K, image, kernel | " + " | ".join(DIRECTIONS) + " |",
        "| --- | --- | --- | --- |",
    ]
    for i in range(0, len(rows), len(DIRECTIONS)):
        n, c, k, size, kernel = rows[i]["layer"]
        cells = []
        for row in rows[i : i + len(DIRECTIONS)]:
            both = [f"{row[name]:.3g}" for name in ("direct", "winograd")]
            which = 0 if row["chosen"] == "direct" else 1
            both[which] = f"**{both[which]}**"
            cells.append(" / ".join(both) + (f" ({100 * row['regret']:.0f} %)" if row["regret"] >= 0.05 else ""))
        lines.append(f"| {n}, {c} -> {k}, {size}, {kernel} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.015, help="for each algorithm, layer and direction")
    args = parser.parse_args()
    rows = [row for layer in layers() for row in measure(layer, args.seconds)]
    machine = {"cpu": platform.processor() or platform.machine(), **native.info()}
    (RESULTS / "algorithms.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    (RESULTS / "algorithms.md").write_text(table(rows, machine))


if __name__ == "__main__":
    main()
