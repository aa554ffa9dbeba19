"""Layers: states and first weights."""

import math

import numpy as np
import pytest
from test_layers import RNG, nets

import cnncore as cc
from cnncore import layers as ly

# --- state ---


def test_state_comes_back_whole_and_is_a_copy():
    net, shape = nets()["lenet"]
    x = RNG.standard_normal(shape)
    net.forward(x)
    state = net.state_dict()
    assert list(state) == [*net.parameters(), "6.key"]
    np.testing.assert_array_equal(state["6.key"], np.array([3, 1], np.uint64))
    first = net.forward(x)
    for parameter in net.parameters().values():
        parameter.value += 1
    net.forward(x)
    other, _ = nets()["lenet"]
    for one in (net, other):
        one.load_state_dict(state)
        np.testing.assert_array_equal(one.forward(x), first)
    assert not np.shares_memory(state["0.weight"], net.parameters()["0.weight"].value)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda s: s.pop("0.bias"), cc.CnncoreError, "missing 0.bias"),
        (lambda s: s.update(extra=np.zeros(1)), cc.CnncoreError, "unknown extra"),
        (lambda s: s.update({"7.bias": np.zeros(3)}), cc.ShapeError, "7.bias must have shape (4,), got (3,)"),
        (lambda s: s.update({"7.bias": np.zeros(4, "f4")}), cc.DTypeError, "7.bias must be float64, got float32"),
        (lambda s: s.update({"7.bias": [0.0] * 4}), cc.DTypeError, "7.bias must be a NumPy array, got list"),
        (lambda s: s.update({"6.key": np.array([3, -1])}), cc.DTypeError, "6.key must be uint64, got int64"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change, error, text):
    net, _ = nets()["lenet"]
    before, state = net.state_dict(), {name: a + 1 for name, a in net.state_dict().items()}
    change(state)
    with pytest.raises(error) as caught:
        net.load_state_dict(state)
    assert text in str(caught.value)
    for name, a in net.state_dict().items():
        np.testing.assert_array_equal(a, before[name])


# --- first weights ---


@pytest.mark.parametrize(("init", "variance"), [("he", 2 / 45), ("xavier", 2 / (45 + 160 * 9))])
def test_first_weights_have_the_variance_of_their_recipe(init, variance):
    layer = ly.Conv2d(10, 160, 3, groups=2, init=init, seed=3)
    w = layer.weight.value
    assert w.shape == (160, 5, 3, 3) and w.dtype == np.float32
    # n uniforms: their mean strays by sigma / sqrt(n), their variance by 0.9 of itself / sqrt(n); five times that.
    assert abs(w.mean()) < 5 * math.sqrt(variance / w.size)
    assert w.var() == pytest.approx(variance, rel=5 * 0.9 / math.sqrt(w.size))
    assert np.abs(w).max() <= math.sqrt(3 * variance) * (1 + 1e-6)
    assert not layer.bias.value.any()


def test_first_weights_are_a_function_of_the_seed():
    one, same, other = (ly.Linear(30, 20, seed=s).weight.value for s in (5, 5, 6))
    np.testing.assert_array_equal(one, same)
    assert np.abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.2
    double = ly.Linear(30, 20, seed=5, dtype=np.float64).weight.value
    assert double.dtype == np.float64
    np.testing.assert_allclose(one, double, rtol=1e-5, atol=1e-7)


def test_layers_without_a_seed_are_born_different():
    one, other = ly.Linear(3, 3), ly.Linear(3, 3)
    assert (one.weight.value != other.weight.value).all()
    assert ly.Dropout().key[0] != ly.Dropout().key[0]


def test_seeds_are_many_and_reproducible():
    def take(seed):
        s = ly.seeds(seed)
        return [next(s) for _ in range(1000)]

    assert take(1) == take(1)
    assert len({*take(1), *take(2)}) == 2000
    assert all(0 <= s < 2**64 for s in take(1))
