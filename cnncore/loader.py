"""Batches, shuffled and augmented, with the next one made in the background while this one is learnt from."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .backends.device import HOST, device_of
from .backends.philox import uniform

Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def channels_last(x: np.ndarray) -> np.ndarray:
    """A batch (N, C, H, W) laid out as (N, H, W, C): in that format a network then runs from end to end."""
    return device_of(x).laid_out(x, channels_last=True) if x.ndim == 4 else x


def order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of `count` samples in an epoch: their ranks among Philox uniforms with the key (seed, epoch)."""
    return np.argsort(uniform((seed, epoch), (count,)), kind="stable")


def batches(
    x: np.ndarray, y: np.ndarray, batch_size: int, *, seed: int, epoch: int, augment: Augment | None = None
) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
    """All samples of one epoch as (x, y) batches, images channels last in memory; the last batch may be smaller.

    Everything is a function of (seed, epoch): the order, and the Generator that `augment(batch_x, rng)` gets, which
    depends on the batch's number too. One thread works one batch ahead. What goes wrong in it is raised here, and it
    has ended when the iterator is exhausted or closed: leave the loop early only under `contextlib.closing`.
    """
    indices = order(len(x), seed, epoch)
    starts = range(0, len(x), batch_size)

    def make(number: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = indices[starts[number] : starts[number] + batch_size]
        batch = HOST.empty((len(chosen), *x.shape[1:]), x.dtype)
        np.take(x, chosen, axis=0, out=batch, mode="clip")  # NumPy takes with "raise" through a buffer
        if augment is not None:
            key = np.random.SeedSequence([seed, epoch, number])
            batch = augment(batch, np.random.Generator(np.random.Philox(key)))
        return channels_last(batch), y[chosen]

    if not starts:
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="cnncore-loader") as worker:
        ahead = worker.submit(make, 0)
        for following in range(1, len(starts) + 1):
            batch = ahead.result()
            if following < len(starts):
                ahead = worker.submit(make, following)
            yield batch
