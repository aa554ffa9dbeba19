"""NumPy's scalars, and arrays without axes, are numbers like Python's: the same layer, the same run, the same text."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import cnncore as cc
from cnncore import layers as ly
from cnncore.data import shift
from cnncore.ops.scalars import finite, plain, whole
from cnncore.optim import SGD
from cnncore.train import Trainer, predict

pytestmark = pytest.mark.filterwarnings("error")

INTEGERS = [np.int64, np.int8, np.uint8, np.uint64, lambda n: np.array(n), lambda n: np.array(n, np.int32)]
FLOATS = [np.float64, np.float32, np.float16, lambda f: np.array(f), lambda f: np.array(f, np.float32)]
INTEGER_IDS = ["int64", "int8", "uint8", "uint64", "array", "array32"]
FLOAT_IDS = ["float64", "float32", "float16", "array", "array32"]

# Layers made of one or more integers or halves of them, which every float type holds exactly.
OF_INTEGERS = {
    "Conv2d": lambda n: ly.Conv2d(n(2), n(4), n(3), n(2), n(1), n(1), n(2), seed=n(5)),
    "Conv2d, each axis": lambda n: ly.Conv2d(2, 4, (n(3), n(1)), [n(2), n(1)], ((n(1), n(0)), n(2)), (n(1), n(2)),
                                             seed=0),
    "Conv2d, arrays": lambda n: ly.Conv2d(2, 4, np.array([n(3), n(1)]), np.array([n(2), n(1)]), seed=0),
    "Conv1d": lambda n: ly.Conv1d(n(2), n(3), n(2), seed=n(1)),
    "Linear": lambda n: ly.Linear(n(5), n(3), seed=n(5)),
    "MaxPool2d": lambda n: ly.MaxPool2d(n(3), n(2), n(1), dilation=n(1)),
    "MaxPool2d, each axis": lambda n: ly.MaxPool2d([n(3), n(2)], (n(2), n(1)), [[n(1), n(0)], [n(0), n(1)]]),
    "AvgPool2d": lambda n: ly.AvgPool2d(n(2), padding=n(1), count_include_pad=np.True_),
    "LPPool2d": lambda n: ly.LPPool2d(n(2), n(2)),
    "GaussianLPPool2d": lambda n: ly.GaussianLPPool2d(n(2), p=n(2), sigma=n(1)),
    "StochasticPool2d": lambda n: ly.StochasticPool2d(n(2), power=n(2), seed=n(5)),
    "ExpectationPool2d": lambda n: ly.ExpectationPool2d(n(2), power=n(2)),
    "GlobalLPPool2d": lambda n: ly.GlobalLPPool2d(n(4)),
    "HeteroPool2d": lambda n: ly.HeteroPool2d({"max": n(1), "avg": n(1)}, n(2), n(2), seed=n(3)),
    "Maxout2d": lambda n: ly.Maxout2d(n(2), n(2), n(1), n(1)),
    "LPUnit2d": lambda n: ly.LPUnit2d(n(1), n(2), n(2), p=n(3)),
    "LocalResponseNorm": lambda n: ly.LocalResponseNorm(n(3), n(1), n(1), n(2)),
    "LocalResponseNormWithin": lambda n: ly.LocalResponseNormWithin((n(3), n(1)), n(1), n(1), n(2)),
    "ContrastNorm": lambda n: ly.ContrastNorm(n(3), n(1)),
    "FactoredConv2d": lambda n: ly.FactoredConv2d(n(2), n(3), n(3), rank=n(2), seed=n(5)),
    "MLPConv2d": lambda n: ly.MLPConv2d(n(2), (n(3), n(2), n(2)), n(3), padding=n(1), seed=n(5)),
    "MLPConv2d, array": lambda n: ly.MLPConv2d(2, np.array([n(3), n(2), n(2)]), 3, seed=5),
    "Dropout": lambda n: ly.Dropout(n(0), seed=n(7)),
    "sermanet": lambda n: cc.models.sermanet(maps=(n(16), n(20)), hidden=n(5), image=np.array([n(2), n(32), n(32)])),
    "zeiler_fergus": lambda n: cc.models.zeiler_fergus(image=(n(2), n(32), n(32)), classes=n(4)),
    "deep_maxout": lambda n: cc.models.deep_maxout(layers=n(3), maps=n(16), pieces=n(20)),
}  # fmt: skip
OF_FLOATS = {
    "Dropout": lambda f: ly.Dropout(f(0.5), seed=1),
    "Dropout2d": lambda f: ly.Dropout2d(f(0.25), seed=1),
    "LPPool2d": lambda f: ly.LPPool2d(f(2.5), 2),
    "GaussianLPPool2d": lambda f: ly.GaussianLPPool2d(2, p=f(2.5), sigma=f(0.75)),
    "StochasticPool2d": lambda f: ly.StochasticPool2d(2, power=f(1.5), seed=2),
    "GlobalExpectationPool2d": lambda f: ly.GlobalExpectationPool2d(power=f(1.5)),
    "HeteroPool2d": lambda f: ly.HeteroPool2d({"max": f(0.5), "avg": f(0.5)}, 2),
    "LPUnit2d": lambda f: ly.LPUnit2d(1, 2, p=f(2.5)),
    "LocalResponseNorm": lambda f: ly.LocalResponseNorm(3, f(0.125), f(0.75), f(1.5)),
    "ContrastNorm": lambda f: ly.ContrastNorm(3, f(0.75), floor=f(0.0625)),
    "lenet": lambda f: cc.models.lenet(dropout=f(0.25)),
    "maxout_net": lambda f: cc.models.maxout_net(dropout=f(0.25)),
}


def assert_same_layer(case, found, expected):
    """Told alike, without a trace of NumPy, and computing the same."""
    assert repr(found) == repr(expected) and "np." not in repr(found) and "array" not in repr(found)
    for name, a in expected.state_dict().items():
        np.testing.assert_array_equal(found.state_dict()[name], a)
    shapes = {"Linear": (2, 5), "Conv1d": (2, 2, 8), "sermanet": (1, 2, 32, 32), "zeiler_fergus": (1, 2, 32, 32)}
    shapes |= dict.fromkeys(("lenet", "deep_maxout", "maxout_net"), (1, 1, 28, 28))
    x = np.random.default_rng(0).standard_normal(shapes.get(case, (2, 2, 8, 8))).astype(np.float32)
    np.testing.assert_array_equal(found.forward(x), expected.forward(x))


@pytest.mark.parametrize("kind", INTEGERS, ids=INTEGER_IDS)
@pytest.mark.parametrize("case", OF_INTEGERS)
def test_layers_take_numpy_integers(case, kind):
    assert_same_layer(case, OF_INTEGERS[case](kind), OF_INTEGERS[case](int))


@pytest.mark.parametrize("kind", FLOATS, ids=FLOAT_IDS)
@pytest.mark.parametrize("case", OF_FLOATS)
def test_layers_take_numpy_floats(case, kind):
    assert_same_layer(case, OF_FLOATS[case](kind), OF_FLOATS[case](float))


@pytest.mark.parametrize("kind", INTEGERS, ids=INTEGER_IDS)
def test_training_takes_numpy_integers(kind, tmp_path):
    x, y = np.random.default_rng(0).random((12, 1, 4, 4), dtype=np.float32), np.arange(12) % 3

    def fitted(n, run_dir, epochs=2):
        net = cc.Sequential(ly.Flatten(), ly.Linear(16, 3, seed=0))
        one = Trainer(net, SGD(net, 0.1), seed=n(4), run_dir=run_dir, quiet=True)
        one.fit((x, y), (x, y), epochs=n(epochs), batch_size=n(5), augment=shift(n(1)), resume=True)
        return predict(net, x, batch_size=n(7))

    np.testing.assert_array_equal(fitted(kind, tmp_path / "a"), fitted(int, tmp_path / "b"))
    np.testing.assert_array_equal(fitted(int, tmp_path / "a", 3), fitted(kind, tmp_path / "b", 3))  # the same run


@pytest.mark.parametrize("bad", [True, np.True_, "0.5", None, np.ones(1), 1j, float("nan"), np.float32("inf"), 10**400])
def test_what_is_no_number_is_refused(bad):
    with pytest.raises(cc.CnncoreError, match="who: what must be a finite number, got"):
        finite("who", "what", bad)
    with pytest.raises(cc.CnncoreError):
        ly.LPUnit2d(1, 2, p=bad)
    with pytest.raises(cc.CnncoreError):
        ly.Dropout(bad)


def test_numbers_are_kept_within_their_limits():
    assert finite("who", "what", np.float32(0.5), 0.5, 1) == 0.5
    for value, limits, text in [
        (-1, {"least": 0}, "a finite number at least 0, got -1"),
        (1, {"least": 0, "below": 1}, "a finite number at least 0 and below 1, got 1"),
        (np.int64(0), {"positive": True}, "a finite number above 0, got np.int64(0)"),
    ]:
        with pytest.raises(cc.CnncoreError) as caught:
            finite("who", "what", value, **limits)
        assert str(caught.value) == f"who: what must be {text}"


def test_a_count_of_costs_does_not_wrap():
    factored = ly.FactoredConv2d(2, 3, 3)
    assert factored.savings((np.int8(100), np.int8(100))) == factored.savings((100, 100))


def test_plain_leaves_alone_what_it_does_not_know():
    thing = object()
    assert plain(thing) is thing and plain("max") == "max" and plain(None) is None
    assert plain([1, (np.int8(2), np.array([[3.0]]))]) == (1, (2, ((3.0,),)))
    assert plain({"a": np.float32(0.5)}) == {"a": 0.5} and type(plain(np.True_)) is bool


def test_whole_floors_past_the_rounding_of_a_quotient():
    for parts in range(1, 200):
        for k in range(2 * parts):
            assert whole((k / 10) / (parts / 10)) == Fraction(k, parts) // 1
    assert [whole(k - 1e-9) for k in range(1, 1000)] == list(range(999))
