"""Winograd convolution: its error, its edges, and that a NaN goes no farther than the windows that hold it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

import cnncore as cc
from cnncore.backends import native, slots
from cnncore.errors import CnncoreError, DTypeError, ShapeError

pytestmark = pytest.mark.skipif(not native.compiled(), reason="the C kernels are not built")

# Layers of shared/targets.md, with fewer images: N, C, K, image, kernel, padding, groups.
LAYERS = {
    "alex2": (2, 96, 256, 27, 5, 2, 2),
    "alex4": (2, 384, 384, 13, 3, 1, 2),
    "nin2": (2, 96, 192, 16, 5, 2, 1),
    "nin3": (4, 192, 192, 8, 3, 1, 1),
    "mnist2": (4, 32, 64, 14, 5, 2, 1),
    "vgg56": (1, 64, 64, 56, 3, 1, 1),
    "vgg14": (1, 256, 256, 14, 3, 1, 1),
}
# Of standard normal x and w: of |e| / |y|, both 2-norms; the largest |e| is at most 1e-5 of the largest |y|.
NORM = {3: 3e-6, 5: 6e-6}
# Of any: of the largest |e| to (sum of |w| over a filter) (largest |x|), in units of eps.
FACTOR = {3: 16, 5: 32}


@pytest.fixture(params=native.supported() if native.compiled() else [])
def isa(request):
    with native.use_isa(request.param):
        yield request.param


def problem(n, c, k, image, kernel, groups, seed=0, channels_last=True):
    """x, w, b of standard normal numbers in float32."""
    rng = np.random.default_rng(seed)
    size = image if isinstance(image, tuple) else (image, image)
    x = slots.empty((n, c, *size), np.float32, channels_last)
    x[...] = rng.standard_normal(x.shape)
    w = rng.standard_normal((k, c // groups, kernel, kernel)).astype(np.float32)
    return x, w, rng.standard_normal(k).astype(np.float32)


def results(arrays, attrs, dy=None, seed=1):
    """y, dy, and the gradients."""
    y, ctx = cc.ops.conv(*arrays, **attrs)
    if dy is None:
        dy = np.random.default_rng(seed).standard_normal(y.shape).astype(np.float32)
    return [y, *ctx.backward(dy.astype(y.dtype))], dy


def compare(arrays, attrs, kernel):
    """Forward and both backwards against float64."""
    got, dy = results(arrays, {**attrs, "algorithm": "winograd"})
    want, _ = results([a.astype(np.float64) for a in arrays], attrs, dy)
    for name, a, b in zip(("y", "dx", "dw", "db"), got, want, strict=True):
        assert np.linalg.norm(a - b) <= NORM[kernel] * np.linalg.norm(b), name
        assert abs(a - b).max() <= 1e-5 * abs(b).max(), name


def is_direct(kernel, image):
    """Whether "winograd" gives the direct kernel's bits."""
    arrays = problem(1, 16, 16, image, kernel, 1)
    found, want = (cc.ops.conv(*arrays, algorithm=name)[0] for name in ("winograd", "direct"))
    return np.array_equal(found, want)


def test_5x5_is_direct_where_outputs_do_not_fill_a_tile(isa):
    assert not is_direct(3, 3) and not is_direct(5, 8)
    assert is_direct(5, (7, 20)) and is_direct(5, (20, 7))


@pytest.mark.parametrize(("image", "kernel"), [(3, 3), (5, 3), (5, 5), (7, 5), (8, 5), ((8, 12), 5)])
def test_error_on_the_smallest_maps(isa, image, kernel):
    """Few terms and few results: seeds differ most."""
    for seed in range(20):
        compare(problem(1, 19, 37, image, kernel, 1, seed), {}, kernel)


@pytest.mark.parametrize("name", LAYERS)
def test_error_on_standard_normal_data(isa, name):
    n, c, k, image, kernel, padding, groups = LAYERS[name]
    compare(problem(n, c, k, image, kernel, groups), {"padding": padding, "groups": groups}, kernel)


def excess(arrays, kernel, dy_offset=0.0, **attrs):
    """The largest error of y, dx and dw in units of what the bound in docs/kernels/winograd.md allows."""
    x, w, _ = arrays
    _, dy = results(arrays, attrs)
    got, _ = results(arrays, {**attrs, "algorithm": "winograd"}, dy + np.float32(dy_offset))
    x, w, b, dy = (np.asarray(a, np.float64) for a in (*arrays, dy + np.float32(dy_offset)))
    want, _ = results((x, w, b), attrs, dy)
    per_filter = np.abs(w).sum(axis=(1, 2, 3))[:, None, None] * np.abs(x).max()
    per_channel = np.abs(w).sum(axis=(0, 2, 3))[:, None, None] * np.abs(dy).max()
    per_map = np.abs(dy).sum(axis=(0, 2, 3))[:, None, None, None] * np.abs(x).max()
    unit = FACTOR[kernel] * float(np.finfo(np.float32).eps)
    sizes = (per_filter, per_channel, per_map)
    return {
        name: float(np.max(np.abs(a - z) / (unit * size + 1e-30)))
        for name, a, z, size in zip(("y", "dx", "dw"), got, want, sizes, strict=False)
    }


FILTERS = {
    "normal": lambda w: w,
    "of sum 0": lambda w: w - w.mean(axis=(2, 3), keepdims=True),
    "of sum 0 over all channels": lambda w: w - w.mean(axis=(1, 2, 3), keepdims=True),
    "positive": np.abs,
    "sparse": lambda w: np.where(np.abs(w) > 2, w, 0),
    "differences": lambda w: np.sign(w - np.roll(w, 1, axis=3)),
}


@examples(60)
@given(data=st.data())
@pytest.mark.parametrize("name", native.supported() if native.compiled() else [])
@pytest.mark.parametrize("kernel", [3, 5])
def test_the_error_is_bounded_by_what_it_depends_on(kernel, name, data):
    """Offsets of x and dy, filters of sum 0, constant images, any scale."""
    c, k = data.draw(st.sampled_from([1, 8, 16, 33, 100])), data.draw(st.sampled_from([1, 9, 16]))
    image = tuple(data.draw(st.integers(kernel + 3, 20)) for _ in range(2))
    x, w, b = problem(data.draw(st.integers(1, 2)), c, k, image, kernel, 1, data.draw(st.integers(0, 2**16)))
    x = x * data.draw(st.sampled_from([np.float32(0), np.float32(1)]), label="contrast of x")
    x = x + np.float32(data.draw(st.sampled_from([0.1, 1, -7, 128, -1e4]), label="offset of x"))
    w = FILTERS[data.draw(st.sampled_from(list(FILTERS)), label="filters")](w).astype(np.float32)
    scale = np.float32(data.draw(st.sampled_from([1, 1e-6, 1e6]), label="scale"))
    attrs = {"padding": data.draw(st.integers(0, 2))}
    with native.use_isa(name):
        found = excess((x * scale, w, 0 * b), kernel, data.draw(st.sampled_from([0, 1, 128])), **attrs)
    assert max(found.values()) <= 1, found


def test_an_offset_under_filters_of_sum_0(isa):
    """The error stays what that of the large terms is; of the small results it may be more than 1e-5."""
    for seed in range(200):
        x, w, b = problem(1, 16, 16, 10, 3, 1, seed)
        w = (w - w.mean(axis=(2, 3), keepdims=True)).astype(np.float32)
        found = excess((x + np.float32(128), w, 0 * b), 3)
        assert max(found.values()) <= 1, (seed, found)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize(
    ("image", "padding"),
    [((5, 5), 0), ((9, 6), 1), ((7, 11), ((0, 3), (2, 1))), ((6, 5), 6), ((30, 5), 2)],
)
def test_every_edge(isa, image, kernel, padding, channels_last):
    """Images that tiles do not fill, uneven padding and more than a kernel's, maps that vectors do not fill, groups."""
    arrays = problem(2, 6, 10, image, kernel, 2, channels_last=channels_last)
    compare(arrays, {"padding": padding, "groups": 2}, kernel)
    arrays = problem(1, 19, 37, image, kernel, 1, channels_last=channels_last)
    compare(arrays, {"padding": padding}, kernel)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("kernel", [3, 5])
def test_what_is_not_finite_stays_in_its_windows(isa, kernel, bad):
    """In x, w and dy: results are not finite where those of the definition are not, and near them elsewhere.
    3e38 is finite, but the transforms overflow on it."""
    arrays = problem(1, 9, 17, (13, 14), kernel, 1)
    dy = results(arrays, {})[1]
    for spoilt in (*arrays[:2], dy):
        at = tuple(length // 2 for length in spoilt.shape)
        kept, spoilt[at] = spoilt[at], bad
        with np.errstate(all="ignore"):
            got, _ = results(arrays, {"algorithm": "winograd"}, dy)
            with cc.use_backend("numpy"):
                want, _ = results(arrays, {}, dy)
            for a, b in zip(got, want, strict=True):
                same = np.isfinite(b)
                np.testing.assert_array_equal(np.isfinite(a), same)
                np.testing.assert_array_equal(a[~same], b[~same])
                assert abs(a - b)[same].max(initial=0) <= 1e-5 * abs(b)[same].max(initial=1)
        spoilt[at] = kept


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("channels_last", [False, True])
def test_relu_in_the_epilogue_is_relu_behind_it(isa, kernel, channels_last):
    """Bit for bit, also where a tile is summed again: NaN stays, -Inf becomes 0."""
    x, w, b = problem(2, 9, 21, (13, 6), kernel, 1, channels_last=channels_last)
    for bad in (0, np.nan, np.inf, -np.inf):
        x[0, 3, 6, 2] = bad
        with np.errstate(all="ignore"):
            plain, _ = cc.ops.conv(x, w, b, padding=1, algorithm="winograd")
            fused, _ = cc.ops.conv_relu(x, w, b, padding=1, algorithm="winograd")
        np.testing.assert_array_equal(fused, np.where(plain <= 0, np.float32(0), plain))
        assert np.isnan(bad) or not np.isnan(fused).any()


def test_the_same_for_every_number_of_threads():
    for kernel in (3, 5):
        arrays = problem(3, 33, 40, (21, 18), kernel, 1)
        want, dy = results(arrays, {"algorithm": "winograd"})
        for threads in (1, 2, 3, 7):
            with native.use_threads(threads):
                found = results(arrays, {"algorithm": "winograd"}, dy)[0]
            for a, b in zip(found, want, strict=True):
                np.testing.assert_array_equal(a, b)


def test_an_image_is_the_same_in_every_batch():
    """Tiles are cut by the shape of the whole call, but no tile's sum depends on where it is cut."""
    x, w, b = problem(9, 24, 20, 10, 3, 1)
    whole, _ = cc.ops.conv(x, w, b, padding=1, algorithm="winograd")
    for n in (0, 4, 8):
        alone, _ = cc.ops.conv(x[n : n + 1], w, b, padding=1, algorithm="winograd")
        np.testing.assert_array_equal(whole[n : n + 1], alone)


def test_auto_is_one_of_the_two():
    """The cheaper one: Winograd for a layer of VGG, the direct kernel for a first layer and in float64."""
    for (n, c, k, image), dtype, chosen in (
        ((1, 64, 64, 56), np.float32, "winograd"),
        ((1, 3, 64, 32), np.float32, "direct"),
        ((1, 16, 16, 12), np.float64, "direct"),
    ):
        arrays = [a.astype(dtype) for a in problem(n, c, k, image, 3, 1)]
        found, _ = cc.ops.conv(*arrays, padding=1)
        np.testing.assert_array_equal(found, cc.ops.conv(*arrays, padding=1, algorithm=chosen)[0])


@pytest.mark.parametrize(
    ("attrs", "kernel", "dtype", "error", "why"),
    [
        ({"stride": 2}, 3, np.float32, ShapeError, "stride of 1"),
        ({"dilation": 2}, 3, np.float32, ShapeError, "dilation of 1"),
        ({}, 4, np.float32, ShapeError, r"kernel of \(3, 3\) or \(5, 5\)"),
        ({}, 3, np.float64, DTypeError, "needs float32"),
        ({"algorithm": "fft"}, 3, np.float32, CnncoreError, "'auto', 'direct', 'winograd'"),
    ],
)
def test_what_winograd_cannot_do_says_why(attrs, kernel, dtype, error, why):
    arrays = [a.astype(dtype) for a in problem(1, 2, 2, 12, kernel, 1)]
    with pytest.raises(error, match=why):
        cc.ops.conv(*arrays, **{"algorithm": "winograd", **attrs})
