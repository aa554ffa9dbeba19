"""Whole networks on both sides: a training step, its peak memory, and inference."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from memory import peak_memory
from networks import NETWORKS, batch, our_inference, our_step
from peers import tensors, their_inference, their_net, their_step
from turns import FORMATS, Calls, Row, Wrong, distance, fill


def network_rows(name: str, seconds: float) -> Iterator[Row]:
    """A row for a training step (forward, loss, backward, SGD with momentum), and one for inference. Raises Wrong."""
    build, shape = NETWORKS[name]
    outputs = build().eval().apply(batch(shape, "contiguous")[0])[0]
    calls: dict[str, Calls] = {"train": {}, "infer": {}}
    for layout in FORMATS:
        x, labels = batch(shape, layout)
        calls["train"][f"cnncore {layout}"] = our_step(build(), x, labels)
        calls["infer"][f"cnncore {layout}"] = our_inference(build(), x)
        given = tensors((x,), layout)[0]
        their_outputs = their_inference(their_net(build(), layout), given)
        error = distance(their_outputs().numpy(), outputs)
        if not error < 1e-3:
            raise Wrong(f"{name}: torch {layout} differs by {error:.2g}")
        calls["train"][f"torch {layout}"] = their_step(their_net(build(), layout), given, torch.from_numpy(labels))
        calls["infer"][f"torch {layout}"] = their_outputs
    for direction, sides in calls.items():
        row = Row("nets", name, "x".join(map(str, shape)), direction, samples=shape[0])
        fill(row, sides, seconds)
        if direction == "train":
            row.memory = {side: peak_memory(side, name, faster(row, side)) for side in ("cnncore", "torch")}
        yield row


def faster(row: Row, side: str) -> str:
    """The memory format in which the side was faster."""
    return min(FORMATS, key=lambda layout: row.best[f"{side} {layout}"])
