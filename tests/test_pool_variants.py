"""The pools of powers: their limits, their awkward points, their statistics, and their layers."""

from __future__ import annotations

import math
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bounds import Problem, answer, check
from engines import NATIVE, Engine
from strategies import channels_last

import cnncore as cc
from cnncore.cli import main
from cnncore.errors import CnncoreError
from cnncore.layers import EntropyPool2d, ExpectationPool2d, GaussianLPPool2d, LPPool2d, StochasticPool2d
from cnncore.ops import records
from cnncore.ops.domain import Draw
from cnncore.ops.op import run
from cnncore.ops.records import registry

ENGINES = [Engine("numpy"), *NATIVE, Engine("cuda")]
engines = pytest.mark.parametrize("engine", ENGINES, ids=str)
POWERS = ["lp_pool", "gaussian_lp_pool", "stochastic_pool", "expectation_pool", "entropy_pool"]
RNG = np.random.default_rng
TWO = {"kernel": 2}


def pool(engine, name, x, *u, **attrs):
    with engine.running() as backend:
        return run(registry[name], (x, *u), attrs, backend)


def any_pool(engine, name, x, **attrs):
    """The same for every pool of powers; a draw takes the key 1."""
    return pool(engine, name, x, *([(1, 0)] if name == "stochastic_pool" else []), **attrs)


# --- limits ---


@engines
def test_lp_between_average_and_maximum(engine):
    x = RNG(0).standard_normal((2, 3, 6, 6))
    average = cc.ops.avg_pool(np.abs(x), **TWO)[0]
    largest = cc.ops.max_pool(np.abs(x), **TWO)[0]
    np.testing.assert_allclose(pool(engine, "lp_pool", x, **TWO, p=1, normalize=True)[0], average, rtol=1e-14)
    assert np.array_equal(pool(engine, "lp_pool", x, **TWO, p=math.inf)[0], largest)
    np.testing.assert_allclose(pool(engine, "lp_pool", x, **TWO, p=200)[0], largest, rtol=0.01)
    near = pool(engine, "lp_pool", x, **TWO, p=200, normalize=True)[0]
    np.testing.assert_allclose(near, largest, rtol=0.01)
    assert (near < largest).all()


@engines
def test_large_powers_tend_to_max(engine):
    x = RNG(1).permutation(1.0 + np.arange(72)).reshape(1, 2, 6, 6)
    largest = cc.ops.max_pool(x, **TWO)[0]
    np.testing.assert_allclose(pool(engine, "expectation_pool", x, **TWO, power=2000)[0], largest, rtol=1e-6)
    u = RNG(2).random((1, 2, 3, 3))
    assert np.array_equal(pool(engine, "stochastic_pool", x, u, **TWO, power=20000)[0], largest)


@engines
def test_a_wide_envelope_is_flat_and_a_narrow_one_a_point(engine):
    x = RNG(3).standard_normal((1, 2, 7, 7))
    geometry = {"kernel": 3, "stride": 2, "padding": 1}
    flat = pool(engine, "lp_pool", x, **geometry, p=4, normalize=True)[0]
    np.testing.assert_allclose(pool(engine, "gaussian_lp_pool", x, **geometry, p=4, sigma=1e6)[0], flat, rtol=1e-10)
    centre = np.abs(x)[:, :, ::2, ::2]
    np.testing.assert_allclose(pool(engine, "gaussian_lp_pool", x, **geometry, p=4, sigma=1e-3)[0], centre, rtol=1e-14)
    even = pool(engine, "gaussian_lp_pool", x, kernel=4, padding=3, stride=3, sigma=1e-3)[0]
    assert np.isfinite(even).all() and (even > 0).all()  # windows at the border hold no element near their centre


@engines
def test_entropy_pooling_of_a_peak_and_of_a_plain(engine):
    x = np.zeros((1, 1, 2, 4))
    x[0, 0, 1, 0], x[0, 0, :, 2:] = 3, 0.5
    y, ctx = pool(engine, "entropy_pool", x, **TWO)
    assert y.tolist() == [[[[12.0, 0.5]]]]
    assert ctx.backward(np.ones_like(y))[0][0, 0, 1, 0] == 2 * 4 - 16 / 4


# --- awkward points ---


@engines
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", POWERS)
def test_windows_of_zeros(name, dtype, engine):
    x = np.zeros((1, 3, 4, 4), dtype)
    x[:, 1] = -0.0
    if name in ("stochastic_pool", "expectation_pool", "entropy_pool"):
        x[:, 2] = -3
    y, ctx = any_pool(engine, name, x, **TWO)
    assert not y.any() and not ctx.backward(np.ones_like(y))[0].any()


@engines
@pytest.mark.parametrize("name", POWERS)
def test_infinity_and_nan(name, engine):
    x = np.ones((1, 1, 2, 6))
    x[0, 0, 0, 1], x[0, 0, 1, 3], x[0, 0, 0, 2] = math.inf, math.nan, math.inf
    y = any_pool(engine, name, x, **TWO)[0][0, 0, 0]
    assert y[0] == math.inf and math.isnan(y[1]) and np.isfinite(y[2])


@engines
@pytest.mark.parametrize("scale", [1e30, 1e-30])
@pytest.mark.parametrize("name", POWERS)
def test_large_and_small_values(name, scale, engine):
    """y grows with x and the gradient stays, without overflow on the way."""
    x = (1 + RNG(4).random((1, 2, 6, 6))).astype(np.float32)
    attrs = {"lp_pool": {"p": 50}, "gaussian_lp_pool": {"p": 50}, "entropy_pool": {}}.get(name, {"power": 50})
    y, ctx = any_pool(engine, name, x, **TWO, **attrs)
    scaled, scaled_ctx = any_pool(engine, name, x * np.float32(scale), **TWO, **attrs)
    np.testing.assert_allclose(scaled / np.float32(scale), y, rtol=2e-6)
    dy = np.ones_like(y)
    np.testing.assert_allclose(scaled_ctx.backward(dy)[0], ctx.backward(dy)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("name", "attrs"),
    [("lp_pool", {"p": p}) for p in (1.0, 1.5, 2.0, 3.0, 3.5, 4.0, 5.0)]
    + [("gaussian_lp_pool", {"p": 4.0}), ("entropy_pool", {})]
    + [("expectation_pool", {"power": power}) for power in (1.0, 2.0, 3.5)],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("engine", [Engine("numpy"), *NATIVE], ids=str)
def test_every_size_beside_every_other(engine, name, attrs, dtype):
    """Windows whose powers overflow or vanish, and windows of zeros, among channels where they do not: each is as
    accurate as it is alone, and in both memory formats the same."""
    exponents = np.linspace(-36, 36, 74) if dtype == np.float32 else np.linspace(-300, 300, 74)
    x = RNG(8).standard_normal((1, 74, 6, 6)) * 10.0 ** RNG(9).permutation(exponents)[:, None, None]
    x[:, ::5, :4] = 0
    x = x.astype(dtype)
    problem = Problem(registry[name], (x,), {**TWO, **attrs}, dtype)
    (want,), (bound,) = (a[:1] for a in answer(problem)[::2])
    y, ctx = pool(engine, name, x, **problem.attrs)
    check(y, want, bound, name)
    dy = RNG(10).standard_normal(y.shape).astype(dtype)
    dx = ctx.backward(dy)[0]
    y_last, ctx = pool(engine, name, channels_last(x), **problem.attrs)
    assert np.array_equal(y_last, y) and np.array_equal(ctx.backward(dy)[0], dx)


@engines
def test_ties(engine):
    x = np.full((1, 1, 2, 2), -2.0)
    y, ctx = pool(engine, "lp_pool", x, **TWO, p=math.inf)
    assert y.item() == 2 and ctx.backward(np.ones_like(y))[0].tolist() == [[[[-1, 0], [0, 0]]]]
    y, ctx = pool(engine, "entropy_pool", -x, **TWO)
    assert y.item() == 2 and ctx.backward(np.ones_like(y))[0].tolist() == [[[[1.75, -0.25], [-0.25, -0.25]]]]
    y, ctx = pool(engine, "expectation_pool", -x, **TWO)
    assert y.item() == 2 and ctx.backward(np.ones_like(y))[0].tolist() == [[[[0.25] * 2] * 2]]


@engines
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_draws_at_the_ends(dtype, engine):
    """u = 0 takes the first positive element; the largest u below 1 takes the last one."""
    x = np.array([[[[0, 2, -1, 1, 3, 0]]]], dtype)
    below = np.nextafter(dtype(1), dtype(0))
    for u, want in [(0, 2), (0.3, 2), (0.34, 1), (0.49, 1), (0.5, 3), (below, 3)]:
        y, ctx = pool(engine, "stochastic_pool", x, np.full((1, 1, 1, 1), u, dtype), kernel=(1, 6))
        assert y.item() == want, u
        assert ctx.backward(np.ones_like(y))[0][0, 0, 0].tolist() == [float(v == want) for v in x[0, 0, 0]]


@pytest.mark.parametrize("power", [1, 2, 3])
@pytest.mark.parametrize("engine", NATIVE, ids=str)
def test_draws_are_the_same_at_every_size(engine, power):
    """Windows whose weights overflow or vanish in float32, of zeros, of NaN and of Inf, beside plain ones."""
    exponents = RNG(11).permutation(np.linspace(-38, 36, 74))
    x = (RNG(12).standard_normal((1, 74, 6, 9)) * 10.0 ** exponents[:, None, None]).astype(np.float32)
    x[:, ::5, :3] = 0
    x[0, ::7, 1, 1], x[0, ::9, 4, 4], x[0, ::11, 2, 2] = math.nan, math.inf, math.nan
    u = RNG(13).random((1, 74, 2, 3)).astype(np.float32)
    y, ctx = pool(Engine("numpy"), "stochastic_pool", x, u, kernel=3, power=power)
    for given in (x, channels_last(x)):
        got, got_ctx = pool(engine, "stochastic_pool", given, u, kernel=3, power=power)
        assert np.array_equal(got, y, equal_nan=True)
        assert np.array_equal(got_ctx.backward(u)[0], ctx.backward(u)[0])


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("engine", [*NATIVE, Engine("cuda")], ids=str)
def test_draws_are_the_same_on_every_backend(engine, dtype, power):
    """Also at boundaries: every u is a partial sum of the weights, rounded."""
    shape = (1, 2, 12, 12) if engine.backend == "cuda" else (4, 40, 24, 24)
    x = np.maximum(RNG(5).standard_normal(shape), 0).astype(dtype)
    windows = x.reshape(*shape[:2], shape[2] // 3, 3, shape[3] // 3, 3).swapaxes(3, 4).reshape(*shape[:2], -1, 9)
    weights = windows.astype(np.float64) ** power
    partial = np.cumsum(weights, -1)[..., 4] / np.maximum(weights.sum(-1), 1e-300)
    u = np.minimum(partial, 1 - 2.0**-24).reshape(*shape[:2], shape[2] // 3, shape[3] // 3).astype(dtype)
    y, ctx = pool(Engine("numpy"), "stochastic_pool", x, u, kernel=3, power=power)
    got, got_ctx = pool(engine, "stochastic_pool", x, u, kernel=3, power=power)
    assert np.array_equal(got, y) and np.array_equal(got_ctx.backward(y)[0], ctx.backward(y)[0])


@pytest.mark.parametrize(
    ("name", "attribute", "value"),
    [
        ("lp_pool", "p", 0.5), ("lp_pool", "p", math.nan), ("lp_pool", "p", "2"), ("lp_pool", "p", True),
        ("lp_pool", "normalize", 1), ("gaussian_lp_pool", "p", math.inf), ("gaussian_lp_pool", "sigma", 0),
        ("gaussian_lp_pool", "sigma", -math.inf), ("expectation_pool", "power", 0.9), ("lp_pool", "p", 10**400),
        ("expectation_pool", "power", None), ("stochastic_pool", "power", math.inf),
    ],
)  # fmt: skip
def test_attributes_out_of_range(name, attribute, value):
    with pytest.raises(CnncoreError, match=f"^{name}: {attribute} must be"):
        any_pool(Engine("numpy"), name, np.ones((1, 1, 2, 2)), **TWO, **{attribute: value})


# --- statistics ---


@pytest.mark.parametrize("power", [1, 2, 3])
@pytest.mark.parametrize("engine", [Engine("numpy"), *NATIVE], ids=str)
def test_draws_have_their_probabilities(engine, power):
    """100,000 draws from one window: chi-square with 4 degrees of freedom, 5e-5 beyond 25; their mean is the
    expectation, within five of its standard errors."""
    window, draws = np.array([0.5, -1, 2, 0, 1, 0.25, 1.5, -2, 0]), 100_000
    x = np.broadcast_to(window.reshape(1, 1, 3, 3), (draws, 1, 3, 3))
    y = pool(engine, "stochastic_pool", np.array(x), (7, 0), kernel=3, power=power)[0].ravel()
    values = window[window > 0]
    expected = draws * values**power / np.sum(values**power)
    counts = np.array([np.count_nonzero(y == v) for v in values])
    assert counts.sum() == draws and np.sum((counts - expected) ** 2 / expected) < 25
    mean = pool(engine, "expectation_pool", np.array(x[:1]), kernel=3, power=power)[0].item()
    assert abs(y.mean() - mean) < 5 * y.std() / math.sqrt(draws)


# --- global forms, and a new variant ---


@engines
@pytest.mark.parametrize("name", ["max_pool", "avg_pool", *POWERS])
def test_global_forms_are_the_pool_over_all_of_s(name, engine):
    for size in [(5,), (4, 7), (2, 3, 4)]:
        x = RNG(6).standard_normal((2, 3, *size)).astype(np.float32)
        y, ctx = any_pool(engine, name, x, kernel=size)
        got, got_ctx = pool(engine, f"global_{name}", x, *([(1, 0)] if name == "stochastic_pool" else []))
        assert got.shape == (2, 3, *(1,) * len(size)) and np.array_equal(got, y)
        assert np.array_equal(got_ctx.backward(y)[0], ctx.backward(y)[0])


EXAMPLE = Path(__file__).parent.parent / "examples" / "top_two_pool.py"
WHAT = "top_two_pool and (numpy or record or domain or gap or cost or seed)"


@pytest.fixture
def top_two():
    """The ops of docs/pooling-variant.md's example, registered."""
    names = runpy.run_path(str(EXAMPLE))
    yield names["top_two_pool"], names["global_top_two_pool"]
    for name in ("top_two_pool", "global_top_two_pool"):
        del records._registry[name]


def test_a_new_variant_is_one_entry(top_two, capsys):
    """Gradient-checked, in full geometry, benchmarked, documented, usable as an op, over all of S, and as a layer."""
    code = [line for line in EXAMPLE.read_text().splitlines() if line]
    assert len(code) < 25
    assert EXAMPLE.read_text() in (EXAMPLE.parent.parent / "docs" / "pooling-variant.md").read_text()
    for call in top_two:
        for seed in range(20):
            case = call.op.domain(Draw(seed))
            report = cc.gradcheck(call, case.arrays, gap=case.gap, seed=seed, backend="numpy", **case.attrs)
            assert report.ok, report
    assert main(["gradcheck", "top_two_pool", "global_top_two_pool"]) == 0
    assert main(["bench", "top_two_pool", "--backend", "numpy", "--only", "2x2", "--seconds", "0.01"]) == 0
    assert "top_two_pool" in capsys.readouterr().out
    x = np.arange(16.0).reshape(1, 1, 4, 4)
    assert top_two[0](x, kernel=2)[0].tolist() == [[[[4.5, 6.5], [12.5, 14.5]]]]
    assert top_two[1](x)[0].item() == 14.5
    layer = cc.layers.named_pool("a test", "top_two", 2, 2)
    assert repr(layer) == "TopTwoPool2d(kernel_size=2, stride=2)" and type(layer) is cc.layers.TopTwoPool2d
    assert cc.Sequential(layer).forward(x).tolist() == [[[[4.5, 6.5], [12.5, 14.5]]]]
    net = cc.models.any_size(pool="top_two", global_pool="top_two")
    assert cc.gradcheck(net, (RNG(0).random((1, 1, 16, 16)),)).ok


def test_a_new_variant_is_property_tested():
    """The suite, with the example registered before it starts, runs every property of a definition on it."""
    files = ("registry", "backends", "memory_formats", "bad_input", "bad_geometry", "gradcheck")
    tests = [f"tests/test_{name}.py" for name in files]
    command = [sys.executable, "-m", "pytest", "-p", "top_two_pool", "-k", WHAT, *tests]
    path = os.pathsep.join([str(EXAMPLE.parent), *sys.path])
    root = EXAMPLE.parent.parent
    done = subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    found = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0 and found and int(found[1]) > 20, done.stdout


# --- layers ---

LAYERS = [
    LPPool2d(3, 2), LPPool2d(math.inf, 3, 2, 1, normalize=True), GaussianLPPool2d(3, 2, 1, p=4.0, sigma=0.8),
    ExpectationPool2d(2, power=2.0), EntropyPool2d(3, 2, 1), StochasticPool2d(2, seed=3), StochasticPool2d(2).eval(),
]  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_layers_pass_gradcheck(layer):
    x, gap = Draw(0).distinct(2, 3, 6, 6)
    report = cc.gradcheck(layer, (x,), gap=gap)
    assert report.ok, report


def test_stochastic_pool_draws_in_training_and_expects_in_evaluation():
    x = RNG(0).random((4, 3, 8, 8)).astype(np.float32)
    layer = StochasticPool2d(2, power=2, seed=5)
    net = cc.Sequential(layer)
    first, second = net.forward(x), net.forward(x)
    assert layer.key == (5, 2) and not np.array_equal(first, second)
    assert np.isin(first, x).all()
    again = StochasticPool2d(2, power=2, seed=5)
    assert np.array_equal(again.forward(x), first)
    net.eval()
    expected = cc.ops.expectation_pool(x, kernel=2, power=2)[0]
    assert np.array_equal(net.forward(x), expected) and layer.key == (5, 2)
    net.train()
    mean = np.mean([net.forward(x) for _ in range(500)], axis=0)
    assert np.abs(mean - expected).max() < 0.1
    assert net.state_dict()["0.key"].tolist() == [5, 502]
