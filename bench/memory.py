"""The peak resident memory of a training step above that of importing the library, each in a process of its own:
`python bench/memory.py cnncore LeNet channels_last 2`."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from networks import NETWORKS, batch, our_step

from cnncore.backends import native

STEPS = 3  # the first allocates momentum, the second has all there ever is


def peak_memory(side: str, name: str, layout: str) -> float:
    """MiB; side is "cnncore" or "torch"."""
    command = [sys.executable, __file__, side, name, layout, str(native.get_threads())]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def step_of(side: str, name: str, layout: str) -> Callable[[], Any]:
    build, shape = NETWORKS[name]
    x, labels = batch(shape, layout)
    if side == "cnncore":
        return our_step(build(), x, labels)
    import torch
    from peers import tensors, their_net, their_step

    return their_step(their_net(build(), layout), tensors((x,), layout)[0], torch.from_numpy(labels))


def resident(name: str) -> float:
    """VmRSS, or VmHWM, the most since it was last reset: MiB."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, "only Linux tells"
    return int(found.group(1)) / 1024


def main(side: str, name: str, layout: str, threads: str) -> None:
    if side == "torch":
        import torch

        torch.set_num_threads(int(threads))
    native.set_threads(int(threads))  # and loads the kernels
    imported = resident("VmRSS")
    step = step_of(side, name, layout)
    gc.collect()  # PyTorch's weights are copies of ours, which are not to count
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    for _ in range(STEPS):
        step()
    print(resident("VmHWM") - imported)


if __name__ == "__main__":
    main(*sys.argv[1:])
