"""Philox uniforms on the device: the numbers of philox.py, bit for bit.

Thread i makes blocks i, i + grid size, ... of four neighbouring uniforms. Words are kept in 64 bits, so that a product
of two words is a plain multiplication; the compiler narrows what is masked.
"""

from typing import Any

import numpy as np

from .kernel import Float1, Real, Word, cuda, device, empty, flat, kernel
from .philox import words

M0, M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
W0, W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
LOW, HALF, EIGHT = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(8)


@device
def philox(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """random.philox4x32 on one counter; every value is a 32-bit word in a uint64."""
    for _ in range(10):
        p0, p1 = M0 * c0, M1 * c2
        c0, c1, c2, c3 = (p1 >> HALF) ^ c1 ^ k0, p1 & LOW, (p0 >> HALF) ^ c3 ^ k1, p0 & LOW
        k0, k1 = (k0 + W0) & LOW, (k1 + W1) & LOW
    return c0, c1, c2, c3


@kernel
def uniforms(u: Float1, call0: Word, call1: Word, seed0: Word, seed1: Word, unit: Real) -> None:
    count = u.shape[0]
    for block in range(cuda.grid(1), (count + 3) // 4, cuda.gridsize(1)):
        index = np.uint64(block)
        w = philox(index & LOW, index >> HALF, call0, call1, seed0, seed1)
        for lane in range(min(4, count - 4 * block)):
            u[4 * block + lane] = u.dtype.type(w[lane] >> EIGHT) * unit


def uniform(key: tuple[int, int], shape: tuple[int, ...], dtype: Any) -> Any:
    """The uniforms of shape `shape` that a key stands for, as a device array."""
    result = empty(shape, dtype)
    u = flat(result)
    uniforms.over(-(-u.shape[0] // 4), u, *words(key[1]), *words(key[0]), 2.0**-24)
    return result
