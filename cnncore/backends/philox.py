"""Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): randomness as a function.

A key is (seed, counter), both in [0, 2^64). Element i (row-major) of the uniforms it stands for is

    u_i = floor(w / 2^8) 2^-24,    w = word i mod 4 of the block philox(counter = (i div 4, counter), key = seed)

so it lies in [0, 1), is exact in float32, and is the same number on every backend and in every memory format.
`counter` counts draws: a layer uses (seed, 0), (seed, 1), ... and no two draws share a block.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)


def philox4x32(counter: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Ten rounds on counters (..., 4) under a key (2,), all uint32; returns (..., 4) uint32."""
    c0, c1, c2, c3 = (counter[..., i].astype(np.uint32) for i in range(4))
    k0, k1 = np.uint32(key[0]), np.uint32(key[1])
    with np.errstate(over="ignore"):
        for _ in range(10):
            p0, p1 = _M0 * c0.astype(np.uint64), _M1 * c2.astype(np.uint64)
            c0, c1, c2, c3 = (
                (p1 >> np.uint64(32)).astype(np.uint32) ^ c1 ^ k0,
                (p1 & _LOW).astype(np.uint32),
                (p0 >> np.uint64(32)).astype(np.uint32) ^ c3 ^ k1,
                (p0 & _LOW).astype(np.uint32),
            )
            k0, k1 = k0 + _W0, k1 + _W1
    return np.stack([c0, c1, c2, c3], axis=-1)


def words(value: int) -> tuple[np.uint32, np.uint32]:
    """A 64-bit number as (low, high) words."""
    return np.uint32(value & 0xFFFFFFFF), np.uint32(value >> 32)


def uniform(key: tuple[int, int], shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """The uniforms of shape `shape` that a key stands for (the formula at the top of this file)."""
    seed, call = key
    count = int(np.prod(shape, dtype=object)) if shape else 1
    blocks = np.arange((count + 3) // 4, dtype=np.uint64)
    low, high = words(call)
    counter = np.empty((len(blocks), 4), np.uint32)
    counter[:, 0], counter[:, 1] = blocks & _LOW, blocks >> np.uint64(32)
    counter[:, 2], counter[:, 3] = low, high
    bits = philox4x32(counter, np.array(words(seed))).reshape(-1)[:count]
    return ((bits >> np.uint32(8)).astype(dtype) * dtype_scale(dtype)).reshape(shape)


def dtype_scale(dtype: Any) -> Any:
    return np.dtype(dtype).type(2.0**-24)
