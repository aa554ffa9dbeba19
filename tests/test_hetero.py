"""Global pooling layers, pools by name, and HeteroPool against the ops it is made of."""

import numpy as np
import pytest
from strategies import channels_last

import cnncore as cc
from cnncore import layers as ly
from cnncore.layers import named_pool
from cnncore.ops.pool_names import POOLS

RNG = np.random.default_rng(0)

GLOBAL = {
    "max": ly.GlobalMaxPool2d(),
    "avg": ly.GlobalAvgPool2d(),
    "lp": ly.GlobalLPPool2d(4, normalize=True),
    "gaussian_lp": ly.GlobalGaussianLPPool2d(p=3, sigma=2),
    "expectation": ly.GlobalExpectationPool2d(power=2),
    "entropy": ly.GlobalEntropyPool2d(),
}


def slopes(function, x, dy, h=1e-6):
    """The central differences of sum(dy * function(x))."""
    found = np.empty_like(x)
    for at in np.ndindex(x.shape):
        old = x[at]
        x[at] = old + h
        above = (function(x) * dy).sum()
        x[at] = old - h
        found[at] = (above - (function(x) * dy).sum()) / (2 * h)
        x[at] = old
    return found


# --- over all of S ---


@pytest.mark.parametrize("name", GLOBAL)
def test_a_global_layer_is_the_local_one_over_all_of_s(name):
    layer, x = GLOBAL[name], RNG.standard_normal((2, 3, 4, 5))
    op = getattr(cc.ops, f"{name}_pool")
    y, call = op(x, kernel=(4, 5), **layer.attrs)
    assert y.shape == (2, 3, 1, 1)
    np.testing.assert_array_equal(layer.forward(x), y)
    np.testing.assert_array_equal(layer.backward(y), call.backward(y)[0])
    assert layer.forward(x[:, :, :2]).shape == (2, 3, 1, 1)  # any S
    with pytest.raises(cc.ShapeError, match=r"Pool2d: x must be \(N, C, \*S\) with 2"):
        layer.forward(x[0])


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("name", POOLS)
def test_every_rank_and_name(name, rank):
    x = RNG.standard_normal((2, 3, *(4,) * rank))
    whole, local = named_pool("test", name, rank, seed=1), named_pool("test", name, rank, 4, seed=1)
    assert type(whole).__name__ == f"Global{type(local).__name__}" and type(whole).__name__.endswith(f"Pool{rank}d")
    np.testing.assert_array_equal(whole.forward(x), local.forward(x))
    assert isinstance(whole, getattr(ly, type(whole).__name__)) and isinstance(local, getattr(ly, type(local).__name__))


def test_global_stochastic_draws_and_expects():
    layer, x = ly.GlobalStochasticPool1d(power=2, seed=5), RNG.standard_normal((4, 3, 7))
    for counter in range(2):
        np.testing.assert_array_equal(layer.forward(x), cc.ops.global_stochastic_pool(x, (5, counter), power=2)[0])
    assert layer.key == (5, 2) and list(layer.state_dict()) == ["key"]
    np.testing.assert_array_equal(layer.eval().forward(x), cc.ops.global_expectation_pool(x, power=2)[0])
    assert layer.key == (5, 2) and repr(layer) == "GlobalStochasticPool1d(power=2)"


def test_numbers_behind_names():
    for name, told in (
        ("lp", "LPPool2d(kernel_size=3, stride=3, p=2.0, normalize=True)"),
        ("lp3.5", "LPPool2d(kernel_size=3, stride=3, p=3.5, normalize=True)"),
        ("lpinf", "LPPool2d(kernel_size=3, stride=3, p=inf, normalize=True)"),
        ("gaussian_lp12", "GaussianLPPool2d(kernel_size=3, stride=3, p=12.0)"),
        ("stochastic2", "StochasticPool2d(kernel_size=3, stride=3, power=2.0)"),
    ):
        assert repr(named_pool("test", name, 2, 3)) == told
    for name in ("median", "max2", "lp-1", "lpx", "", "4", "lp4 ", None, 3):
        with pytest.raises(cc.CnncoreError, match=r"^test: pool must be one of max, avg, lp, .* got"):
            named_pool("test", name, 2, 3)


# --- shares of the maps ---


@pytest.mark.parametrize(
    "shares", [{"max": 0.5, "avg": 0.25, "lp4": 0.25}, {"max": 4, "avg": 2, "lp4": 2}], ids=["fractions", "counts"]
)
def test_shares_are_pooled_as_named(shares):
    x = RNG.standard_normal((2, 8, 5, 6))
    layer = ly.HeteroPool2d(shares, 3, 2, 1, ceil_mode=True)
    window = {"kernel": 3, "stride": 2, "padding": 1, "ceil_mode": True}
    parts = [
        cc.ops.max_pool(x[:, :4], **window), cc.ops.avg_pool(x[:, 4:6], **window),
        cc.ops.lp_pool(x[:, 6:], p=4, normalize=True, **window),
    ]  # fmt: skip
    y = layer.forward(x)
    np.testing.assert_array_equal(y, np.concatenate([y for y, _ in parts], axis=1))
    dy = RNG.standard_normal(y.shape)
    each = [
        ctx.backward(dy[:, a:b].copy())[0] for (_, ctx), (a, b) in zip(parts, ((0, 4), (4, 6), (6, 8)), strict=True)
    ]
    np.testing.assert_allclose(layer.backward(dy), np.concatenate(each, axis=1), rtol=1e-12)
    assert layer.backward(dy, dx=False) is None


def test_every_map_in_every_way():
    x = RNG.standard_normal((2, 3, 6))
    layer = ly.HeteroPool1d(["max", "avg", "entropy"], 3)
    y = layer.forward(x)
    ways = (cc.ops.max_pool, cc.ops.avg_pool, cc.ops.entropy_pool)
    assert y.shape == (2, 9, 2)
    np.testing.assert_array_equal(y, np.concatenate([op(x, kernel=3)[0] for op in ways], axis=1))
    dy = RNG.standard_normal(y.shape)
    each = [op(x, kernel=3)[1].backward(dy[:, 3 * i : 3 * i + 3].copy())[0] for i, op in enumerate(ways)]
    np.testing.assert_allclose(layer.backward(dy), sum(each), rtol=1e-12)


@pytest.mark.parametrize(
    ("pools", "rank", "shape"),
    [
        ({"max": 1, "avg": 1, "lp3": 2}, 1, (2, 4, 6)),
        ({"gaussian_lp": 0.5, "entropy": 0.5}, 2, (1, 2, 4, 4)),
        (["expectation", "max"], 2, (2, 2, 4, 4)),
        ({"avg": 0.4, "max": 0.6}, 3, (1, 3, 2, 4, 2)),
    ],
)
def test_gradients(pools, rank, shape):
    layer = (ly.HeteroPool1d, ly.HeteroPool2d, ly.HeteroPool3d)[rank - 1](pools, 2)
    x = RNG.permutation(np.linspace(-1, 1, int(np.prod(shape)))).reshape(shape)  # no ties, so no kink is near
    y = layer.forward(x)
    dy = RNG.standard_normal(y.shape)
    np.testing.assert_allclose(layer.backward(dy), slopes(layer.eval().forward, x, dy), rtol=1e-6, atol=1e-8)
    assert cc.gradcheck(layer, (x,)).ok


def test_fractions_come_to_whole_maps():
    for maps, sizes in ((10, [3, 4, 3]), (7, [2, 3, 2]), (3, [1, 1, 1])):
        layer = ly.HeteroPool1d({"max": 1 / 3, "avg": 1 / 3, "lp": 1 / 3}, 2)
        ends = layer._ends(maps)
        assert np.diff([0, *ends]).tolist() == sizes


def test_layers_that_draw_inside():
    """They follow train and eval, differ from each other, and their keys are part of the state."""
    x = np.abs(RNG.standard_normal((2, 4, 4, 4)))
    net = ly.Sequential(ly.ReLU(), ly.HeteroPool2d({"stochastic": 2, "max": 1, "stochastic2": 1}, 2, seed=3))
    state = net.state_dict()
    assert list(state) == ["1.0.key", "1.2.key"] and (state["1.0.key"] != state["1.2.key"]).any()
    first, second = net.forward(x), net.forward(x)
    assert not np.array_equal(first[:, :2], second[:, :2])
    np.testing.assert_array_equal(first[:, 2], second[:, 2])
    net.load_state_dict(state)
    np.testing.assert_array_equal(net.forward(x), first)
    expected = net.eval().forward(x)
    np.testing.assert_array_equal(expected, net.forward(x))
    np.testing.assert_array_equal(expected[:, :2], cc.ops.expectation_pool(x[:, :2], kernel=2)[0])
    assert net.state_dict()["1.0.key"][1] == 1


def test_a_resumed_run_draws_what_the_whole_run_drew(tmp_path):
    x, y = RNG.random((24, 1, 8, 8), np.float32), RNG.integers(0, 3, 24)

    def trainer(run_dir=None):
        net = ly.Sequential(
            ly.Conv2d(1, 4, 3, seed=1), ly.ReLU(), ly.HeteroPool2d({"stochastic": 0.5, "max": 0.5}, 2, seed=2),
            ly.GlobalStochasticPool2d(seed=3), ly.Flatten(), ly.Linear(4, 3, seed=4),
        )  # fmt: skip
        return cc.Trainer(net, cc.optim.SGD(net, lr=0.1), seed=5, run_dir=run_dir, quiet=True)

    whole = trainer()
    whole.fit((x, y), epochs=3, batch_size=8)
    for until in (1, 3):
        last = trainer(tmp_path)
        last.fit((x, y), epochs=until, batch_size=8, resume=True)
    state = last.net.state_dict()
    assert state["2.0.key"][1] == state["3.key"][1] == 9
    for name, value in whole.net.state_dict().items():
        np.testing.assert_array_equal(state[name], value, err_msg=name)


@pytest.mark.parametrize("pools", [{"max": 0.5, "avg": 0.5}, ["max", "avg"]], ids=["shares", "suite"])
def test_both_memory_formats_agree_with_the_definition(pools):
    x = RNG.standard_normal((2, 4, 4, 4)).astype(np.float32)
    last = channels_last(x)
    layer = ly.HeteroPool2d(pools, 2)
    with cc.use_backend("numpy"):
        y = layer.forward(x)
        dx = layer.backward(y)
    for given in (x, last):
        np.testing.assert_array_equal(layer.forward(given), y)
        np.testing.assert_allclose(layer.backward(y), dx, rtol=1e-6)


def test_names_and_repr():
    layer = ly.HeteroPool2d({"max": 3, "lp4": 1}, 2, 1)
    assert repr(layer) == (
        "HeteroPool2d({'max': 3, 'lp4': 1}\n  (0): MaxPool2d(kernel_size=2, stride=1)\n"
        "  (1): LPPool2d(kernel_size=2, stride=1, p=4.0, normalize=True)\n)"
    )


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: ly.HeteroPool2d({"max": 0.5, "avg": 0.4}, 2), cc.CnncoreError, "must sum to 1, got 0.9"),
        (lambda: ly.HeteroPool2d({"max": float("nan")}, 2), cc.CnncoreError, "shares must be positive"),
        (lambda: ly.HeteroPool2d({"max": 0.5, "avg": 1}, 2), cc.CnncoreError, "all counts (int) or all fractions"),
        (lambda: ly.HeteroPool2d({"max": 2, "avg": 0}, 2), cc.CnncoreError, "shares must be positive"),
        (lambda: ly.HeteroPool2d({"max": "half"}, 2), cc.CnncoreError, "shares must be positive"),
        (lambda: ly.HeteroPool2d({"max": True}, 2), cc.CnncoreError, "shares must be positive"),
        (lambda: ly.HeteroPool1d({"median": 1.0}, 2), cc.CnncoreError, "HeteroPool1d: pool must be one of max, avg"),
        (lambda: ly.HeteroPool1d(["max", "nix"], 2), cc.CnncoreError, "got 'nix'"),
        (lambda: ly.HeteroPool1d([], 2), cc.CnncoreError, "must map names to shares, or be a list of names"),
        (lambda: ly.HeteroPool1d("max", 2), cc.CnncoreError, "must map names to shares"),
        (
            lambda: ly.HeteroPool1d({"max": 2, "avg": 1}, 2).forward(np.ones((1, 4, 4))),
            cc.ShapeError, "HeteroPool1d: the 4 maps of x cannot be shared out as {'max': 2, 'avg': 1}",
        ),
        (lambda: ly.HeteroPool1d({"max": 0.9, "avg": 0.1}, 2).forward(np.ones((1, 4, 4))), cc.ShapeError, "shared out"),
        (lambda: ly.HeteroPool1d({"max": 1.0}, 2).forward(np.ones((1, 4, 4, 4))), cc.ShapeError, "with 1 spatial"),
        (lambda: ly.HeteroPool2d({"max": 1.0}, 9).forward(np.ones((1, 4, 4, 4))), cc.ShapeError, "max_pool: "),
        (lambda: ly.GlobalMaxPool2d(stride=2).forward(np.ones((1, 4, 4, 4))), cc.CnncoreError, "'stride'"),
    ],
)  # fmt: skip
def test_wrong_use_says_what_is_wrong(make, error, text):
    with pytest.raises(error) as caught:
        make()
    assert text in str(caught.value)
