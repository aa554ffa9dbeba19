"""Philox4x32-10 against the published vectors (Random123, kat_vectors) and a second one in Python integers."""

from __future__ import annotations

import numpy as np
import pytest
from engines import NATIVE, available
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

from cnncore.backends import select
from cnncore.backends.device import to_host
from cnncore.backends.philox import philox4x32, uniform
from cnncore.errors import CnncoreError
from cnncore.ops.checks import check_key
from cnncore.ops.op import run
from cnncore.ops.records import registry

WORD = st.integers(0, 2**32 - 1)
LONG = st.integers(0, 2**64 - 1)


def philox_in_integers(counter, key):
    """Salmon et al. 2011, section 3.3: a round multiplies two words and swaps; the key grows by Weyl constants."""
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c[2], 2**32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def in_hex(text):
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_published_vectors(counter, key, result):
    counter, key, result = in_hex(counter), in_hex(key), in_hex(result)
    assert philox4x32(np.array(counter, np.uint32), np.array(key, np.uint32)).tolist() == result
    assert philox_in_integers(counter, key) == result


@examples(50)
@given(counters=st.lists(st.tuples(WORD, WORD, WORD, WORD), min_size=1, max_size=5), key=st.tuples(WORD, WORD))
def test_any_counter_and_key(counters, key):
    got = philox4x32(np.array(counters, np.uint32), np.array(key, np.uint32))
    assert got.dtype == np.uint32
    assert got.tolist() == [philox_in_integers(c, key) for c in counters]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@examples(40)
@given(seed=LONG, call=LONG, shape=st.lists(st.integers(0, 4), max_size=4))
def test_the_layout_of_uniforms(dtype, seed, call, shape):
    """Element i is word i mod 4 of block i div 4: 24 bits, so float32 and float64 hold the same number."""
    u = uniform((seed, call), tuple(shape), dtype)
    assert u.shape == tuple(shape) and u.dtype == dtype
    for i, value in enumerate(u.reshape(-1)):
        block = philox_in_integers([i // 4, 0, call % 2**32, call >> 32], [seed % 2**32, seed >> 32])
        assert float(value) == (block[i % 4] >> 8) / 2**24


def test_range_mean_and_the_two_dtypes():
    u = uniform((1, 2), (300_000,))
    assert u.min() >= 0 and u.max() < 1
    assert u.min() < 1e-4 and u.max() > 1 - 1e-4
    # Standard deviations of mean and variance of n uniforms: 1/sqrt(12 n) and 1/sqrt(180 n); within 5 of them.
    assert abs(u.mean(dtype=np.float64) - 1 / 2) < 5 / np.sqrt(12 * u.size)
    assert abs(u.var(dtype=np.float64) - 1 / 12) < 5 / np.sqrt(180 * u.size)
    assert np.array_equal(u, uniform((1, 2), (300_000,), np.float64))


def test_a_shape_only_cuts_the_stream():
    flat = uniform((5, 6), (2 * 3 * 4,))
    assert np.array_equal(uniform((5, 6), (2, 3, 4)), flat.reshape(2, 3, 4))
    assert np.array_equal(uniform((5, 6), (7,)), flat[:7])
    assert uniform((5, 6), ()) == flat[0]


def test_draws_share_no_block():
    """Neighbouring counters and seeds, and a counter and a seed exchanged: 4000 blocks, all different."""
    keys = [(0, 0), (0, 1), (1, 0), (0, 2**32), (2**32, 0), (1, 1), (2**63, 5), (5, 2**63), (0, 2**64 - 1), (7, 8)]
    blocks = np.concatenate([uniform(key, (400, 4), np.float64) for key in keys])
    assert len(np.unique(blocks, axis=0)) == len(blocks)


def test_the_same_key_gives_the_same_numbers():
    assert np.array_equal(uniform((3, 4), (100,)), uniform((3, 4), (100,)))


BAD_KEYS = [(), (1,), (1, 2, 3), (-1, 0), (0, -1), (2**64, 0), (0, 2**64), (0.0, 1), ("0", 1), (True, 0), (None, 0)]


@pytest.mark.parametrize("key", BAD_KEYS, ids=repr)
def test_bad_keys(key):
    with pytest.raises(CnncoreError, match="op: a random key is"):
        check_key("op", key)


def test_numpy_integers_are_keys():
    assert check_key("op", (np.uint64(2**64 - 1), np.int32(4))) == (2**64 - 1, 4)


@pytest.mark.parametrize("name", [n for n in select.NAMES if available(n)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (4,), (5,), (2, 3, 5), (1027,)])
def test_every_backend_makes_the_same_numbers(name, dtype, shape):
    if name == "cuda":
        shape = shape if shape != (1027,) else (131,)  # the simulator takes its time
    for key in [(0, 0), (2**64 - 1, 2**64 - 1), (0x123456789, 0x9876543210)]:
        got = to_host(select.load(name).uniform(key, shape, np.dtype(dtype)))
        assert got.shape == shape and got.dtype == dtype
        assert np.array_equal(got, uniform(key, shape, dtype))


DRAWING = [("dropout", {"p": 0.4}), ("dropout", {"p": 0.4, "per": "map"}), ("stochastic_pool", {"kernel": 2}),
           ("global_stochastic_pool", {})]  # fmt: skip


@pytest.mark.parametrize("engine", NATIVE, ids=str)
@pytest.mark.parametrize(("name", "attrs"), DRAWING)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (3, 1, 2, 2), (2, 131, 13, 11), (2, 20, 45, 37), (70, 5, 3, 2)])
def test_kernels_draw_the_same_numbers(engine, name, attrs, last, shape):
    """A kernel that is given a key draws piece by piece, in memory's order; the array says what it must be."""
    x = np.random.default_rng(0).random(shape).astype(np.float32)
    if last:
        x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    op, key = registry[name], (2**64 - 3, 2**63 + 5)
    u = uniform(key, op.rule(x, key, **attrs).random)
    with engine.running() as backend:
        drawn, ctx = run(op, (x, key), attrs, backend)
        given, given_ctx = run(op, (x, u), attrs, backend)
    assert np.array_equal(drawn, given)
    assert all(np.array_equal(a, b) for a, b in zip(ctx.saved, given_ctx.saved, strict=True))
