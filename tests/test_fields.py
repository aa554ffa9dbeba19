"""Layers declare their arguments once: repr, classes by rank, names and pooling layers follow."""

from __future__ import annotations

import math
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnncore as cc
from cnncore import layers as ly
from cnncore.layers.fields import Declared, by_rank, declared
from cnncore.layers.pool import layers_of
from cnncore.ops.pool_names import POOLS, named
from cnncore.ops.pool_walk import Number, Shown, variant
from cnncore.ops.records import _registry, registry

CLASSES = [name for name in ly.__all__ if isinstance(getattr(ly, name), type)]
LAYERS = [name for name in CLASSES if issubclass(getattr(ly, name), ly.Layer)]


@pytest.mark.parametrize("name", LAYERS)
def test_every_class_is_found_in_its_module(name: str) -> None:
    kind = getattr(ly, name)
    assert kind.__name__ == name and pickle.loads(pickle.dumps(kind)) is kind


def test_every_layer_of_the_folder_is_exported_and_nothing_else() -> None:
    pending, found = [ly.Layer], {"Pool", "GlobalPool", "DrawingPool"}
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        public = kind.__module__.startswith("cnncore.layers.") and not kind.__name__.startswith("_")
        found |= {kind.__name__} if public and not issubclass(kind, ly.Pool) else set()
    pools = {name for entry in POOLS.values() for name in layers_of(entry)}
    assert len(pools) == 8 * len(POOLS) and set(LAYERS) == found | pools
    assert set(ly.__all__) <= set(dir(ly)) and len(set(ly.__all__)) == len(ly.__all__)
    namespace: dict[str, Any] = {}
    exec("from cnncore.layers import *", namespace)
    assert set(ly.__all__) <= set(namespace)


# --- repr reads like the call ---

CALLS = [
    "Conv1d(2, 4, kernel_size=(3,))",
    "Conv2d(4, 6, kernel_size=(3, 2), stride=2, padding=((1, 0), (0, 2)), groups=2, bias=False)",
    "Conv3d(1, 2, kernel_size=(2, 2, 2), algorithm='direct')",
    "Linear(3, 2)",
    "Linear(3, 2, bias=False)",
    "Dropout(p=0.5)",
    "Dropout2d(p=0.25)",
    "ReLU()",
    "Flatten()",
    "Maxout1d(2)",
    "Maxout2d(3, kernel_size=2, stride=1, padding=1)",
    "LPUnit2d(3, 2, kernel_size=3, stride=2, padding=1)",
    "LocalResponseNorm(size=5)",
    "LocalResponseNorm(size=3, k=1.0, alpha_over_size=True)",
    "LocalResponseNormWithin(kernel_size=(3, 5), alpha=0.1)",
    "ContrastNorm(kernel_size=5, sigma=1.5, floor=0.01)",
    "MaxPool2d(kernel_size=2, stride=1, dilation=2)",
    "AvgPool2d(kernel_size=(2, 3), stride=(2, 3), ceil_mode=True, count_include_pad=True)",
    "LPPool2d(kernel_size=3, stride=2, padding=1, p=4.0, normalize=True)",
    "GaussianLPPool1d(kernel_size=3, stride=3, sigma=2.0)",
    "StochasticPool3d(kernel_size=2, stride=2, power=2.0)",
    "GlobalLPPool2d(4.0, normalize=True)",
    "GlobalStochasticPool2d(power=2.0)",
    "GlobalMaxPool1d()",
]


@pytest.mark.parametrize("call", CALLS)
def test_repr_is_the_call(call: str) -> None:
    layer = eval(call, vars(ly) | {name: getattr(ly, name) for name in ly.__all__})
    assert repr(layer) == call and repr(pickle.loads(pickle.dumps(layer))) == call


def plain_arguments() -> list[ly.Layer]:
    """A layer of every exported class that no call needs more than numbers for."""
    made = []
    for name in LAYERS:
        kind = getattr(ly, name)
        arguments = declared(kind)
        ranked = isinstance(getattr(kind, "rank", None), int) or not hasattr(kind, "rank")
        base = name in ("Layer", "Declared", "Drawing", "Pool", "GlobalPool", "DrawingPool")
        if ranked and not base and not name.startswith(("MLPConv", "HeteroPool", "Branches")):
            made.append(kind(**{n: 2 for n, p in arguments.items() if p.default is p.empty}))
    return made


@pytest.mark.parametrize("layer", plain_arguments(), ids=lambda layer: type(layer).__name__)
def test_every_layer_comes_back_from_its_repr(layer: ly.Layer) -> None:
    if isinstance(layer, ly.FactoredConv2d):
        assert list(layer.children()) == ["depthwise", "across"]  # shown by what is inside it
        return
    again = eval(repr(layer), {name: getattr(ly, name) for name in ly.__all__})
    assert type(again) is type(layer) and repr(again) == repr(layer)
    if isinstance(layer, Declared):
        assert again.fields() == layer.fields()  # type: ignore[attr-defined]


def test_fields_hold_defaults_and_follow_the_layer() -> None:
    assert ly.Conv2d(1, 2, 3, seed=1).fields() == {
        "in_channels": 1, "out_channels": 2, "kernel_size": (3, 3), "stride": 1, "padding": 0, "dilation": 1,
        "groups": 1, "bias": True, "algorithm": "auto",
    }  # fmt: skip
    layer = ly.Dropout(0.1)
    layer.p = 0.9
    assert layer.fields() == {"p": 0.9} and repr(layer) == "Dropout(p=0.9)"
    pool = ly.LPPool2d(3.0, 2)
    pool.attrs["p"] = np.float64(4.0).item()
    assert pool.fields()["p"] == 4.0
    assert list(pool.fields()) == ["kernel_size", "stride", "padding", "dilation", "ceil_mode", "p", "normalize"]


def test_a_layer_of_ones_own_declares_and_inherits() -> None:
    class Wide(Declared):
        rank: int

        def __init__(self, channels: int, factor: float = 1.0, *, seed: int | None = None) -> None:
            self.channels, self.factor, self.gain = channels, factor, ly.Parameter(np.ones(channels))

    _, wide, _ = by_rank(Wide)
    assert repr(wide(3, 2.0, seed=1)) == "Wide2d(3, factor=2.0)" and wide(3).fields() == {"channels": 3, "factor": 1.0}

    class Larger(ly.MaxPool2d):
        def __init__(self, margin: int) -> None:
            super().__init__(margin + 1)
            self.margin = margin

    assert Larger(2).fields() | {"margin": 2} == ly.MaxPool2d(3).fields() | {"margin": 2}
    assert "kernel_size=3" in repr(Larger(2)) and "margin=2" in repr(Larger(2))


# --- pooling ---


def test_arguments_of_pooling_layers() -> None:
    for layer in (ly.LPPool2d(4, 3, 2, 1), ly.LPPool2d(norm_type=4, kernel_size=3, stride=2, padding=1)):
        assert layer.fields() == ly.LPPool2d(p=4, kernel_size=3, stride=2, padding=1).fields()
    for make, text in (
        (lambda: ly.MaxPool2d(), "MaxPool2d: missing a required argument: 'kernel_size'"),
        (lambda: ly.MaxPool2d(2, 1, 0, 1), "MaxPool2d: too many positional arguments"),
        (lambda: ly.MaxPool2d(2, p=3), "MaxPool2d: got an unexpected keyword argument 'p'"),
        (lambda: ly.GlobalAvgPool1d(count_include_pad=True), "unexpected keyword argument 'count_include_pad'"),
        (lambda: ly.LPPool1d(3), "LPPool1d: missing a required argument: 'kernel_size'"),
    ):
        with pytest.raises(cc.CnncoreError, match=re.escape(text)):
            make()
    for name in ("NixPool2d", "MaxPool4d", "ReluMaxPool2d", "maxPool"):
        with pytest.raises(AttributeError, match=f"'cnncore.layers' has no attribute '{name}'"):
            getattr(ly, name)


@pytest.fixture
def median_or_drawn() -> Any:
    """A pooling op with a number, and one that draws, registered for a test."""
    variant(
        "upper_quantile_pool",
        lambda v, p: (np.where(v.real, v.values, -math.inf).max(axis=-1) * p.share,),
        lambda v, p, dy: p.share * (v.values == v.values.max(axis=-1, keepdims=True)) * dy[..., None],
        attrs={"share": Number(0.5, 0.0, (0.5, 1.0))},
        fill=-math.inf,
        saved=("x",),
        doc="A share of the largest.\n",
    )
    variant(
        "first_pool",
        lambda v, p, u: (np.where(u < 1, v.values[..., 0], 0),),
        lambda v, p, dy: (np.arange(v.real.shape[-1]) == 0) * dy[..., None],
        draws=True,
        doc="The first element, whatever is drawn.\n",
        shown=Shown("ItsFirstPool", evaluates="max_pool"),
    )
    yield
    for name in ("upper_quantile_pool", "first_pool"):
        del _registry[name], _registry[f"global_{name}"]


def test_a_registered_pooling_op_has_layers_and_a_name_at_once(median_or_drawn: Any) -> None:
    assert list(POOLS)[-2:] == ["upper_quantile", "first"]
    x = np.random.default_rng(0).random((2, 3, 4, 4))
    layer = ly.UpperQuantilePool2d(2, share=1.0)
    assert repr(layer) == "UpperQuantilePool2d(kernel_size=2, stride=2, share=1.0)"
    np.testing.assert_array_equal(layer.forward(x), cc.ops.max_pool(x, kernel=2)[0])
    assert type(cc.layers.named_pool("test", "upper_quantile1", 2, 2)) is ly.UpperQuantilePool2d
    assert repr(cc.layers.named_pool("test", "upper_quantile0.25", 3)) == "GlobalUpperQuantilePool3d(share=0.25)"
    assert pickle.loads(pickle.dumps(layer)).fields() == layer.fields()
    assert "UpperQuantilePool1d" in dir(ly) and ly.GlobalUpperQuantilePool1d().fields() == {"share": 0.5}
    net = cc.models.lenet(pool="upper_quantile1+max")
    assert "UpperQuantilePool2d(kernel_size=2, stride=2, share=1.0)" in repr(net)
    drawn = ly.ItsFirstPool2d(2, seed=4)
    np.testing.assert_array_equal(drawn.forward(x), x[:, :, ::2, ::2])
    assert drawn.key == (4, 1) and list(drawn.state_dict()) == ["key"]
    np.testing.assert_array_equal(drawn.eval().forward(x), cc.ops.max_pool(x, kernel=2)[0])
    assert ly.HeteroPool2d(["max", "first"], 2).forward(x).shape == (2, 6, 2, 2)


def test_a_pooling_op_that_is_gone_has_no_layer_and_no_name() -> None:
    assert "upper_quantile" not in POOLS and not hasattr(ly, "UpperQuantilePool2d")
    with pytest.raises(cc.CnncoreError, match=r"^test: pool must be one of max, .*; got 'first'"):
        named("test", "first")


def test_names_are_ops_and_the_readme_knows_them() -> None:
    for name, entry in POOLS.items():
        assert entry.name == f"{name}_pool" and f"global_{entry.name}" in registry
        assert getattr(ly, f"{entry.shown.layer}2d").__module__ == "cnncore.layers.pool"
    text = (Path(__file__).parent.parent / "README.md").read_text()
    (listed,) = re.findall(r"`pool=` \(`--pool`\): (.*?)\. With several", text, re.DOTALL)
    names = re.split(r",\s|\sor\s", listed)
    assert {named("README", name).variant for name in names} == set(POOLS.values())
