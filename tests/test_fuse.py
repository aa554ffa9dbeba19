"""What a Sequential runs for its layers gives, bit for bit, what the layers give one after the other."""

from __future__ import annotations

import numpy as np
import pytest
from engines import HOST_BACKENDS, NATIVE
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

import cnncore as cc
from cnncore import layers as ly
from cnncore.backends import launch, native
from cnncore.layers.fuse import fused
from cnncore.ops.recording import recording

RNG = np.random.default_rng(11)
SEEDS = st.integers(0, 2**16)
POOLS = {
    "tiles": lambda: ly.MaxPool2d(2),
    "overlap": lambda: ly.MaxPool2d(3, 2, 1, ceil_mode=True),
    "slides": lambda: ly.MaxPool2d((2, 3), 1, (0, 1)),
    "all": lambda: ly.GlobalMaxPool2d(),
    "mean": lambda: ly.AvgPool2d(2, 1),
}
MAPS = 3


def draw_layers(draw, count):
    """Layers that take MAPS maps and give as many, some of them in Sequentials of their own."""
    layers = []
    for _ in range(count):
        kind = draw(st.sampled_from(["relu", "relu", "conv", "pool", "dropout", "nested"]))
        if kind == "conv":
            kernel = draw(st.sampled_from([1, 3, 5]))
            layers.append(ly.Conv2d(MAPS, MAPS, kernel, padding=kernel // 2, seed=draw(SEEDS)))
        elif kind == "nested" and count > 1:
            layers.append(ly.Sequential(*draw_layers(draw, count // 2)))
        elif kind == "pool":
            layers.append(POOLS[draw(st.sampled_from(list(POOLS)))]())
        else:
            layers.append(ly.Dropout(0.3, seed=draw(SEEDS)) if kind == "dropout" else ly.ReLU())
    return layers


def one_by_one(layer, x, dy):
    """y, dx and all gradients of a network that is walked layer by layer."""
    contexts = []

    def forward(layer, x):
        if isinstance(layer, ly.Sequential):
            for child in layer.children().values():
                x = forward(child, x)
            return x
        y, context = layer.apply(x)
        contexts.append(context)
        return y

    y = forward(layer, x)
    above = dy(y)
    for context in reversed(contexts):
        above = context.backward(above)
    return y, above, {name: p.grad for name, p in layer.parameters().items()}


def fill(shape, seed, special):
    """Few different numbers, so that windows have ties, zeros of both signs, and NaN and Inf where asked for."""
    rng = np.random.default_rng(seed)
    a = rng.choice(np.array([-2, -1, -0.0, 0.0, 1, 3], np.float32), shape)
    a[rng.random(shape) < 0.05 * special] = rng.choice([np.nan, np.inf, -np.inf])
    return a


@pytest.mark.parametrize("backend", HOST_BACKENDS)
@examples(60)
@given(data=st.data())
def test_nothing_shows_that_layers_are_fused(backend, data):
    net = ly.Sequential(*draw_layers(data.draw, data.draw(st.integers(1, 6))))
    mode, special = data.draw(st.sampled_from(["train", "eval", "freeze"])), data.draw(st.booleans())
    getattr(net, mode)()
    seed, last = data.draw(SEEDS), data.draw(st.booleans())
    x = launch.dense(fill((2, MAPS, 13, 14), seed, special), last)
    keys = {name: layer.key for name, layer in net.walk() if isinstance(layer, ly.Drawing)}
    with cc.use_backend(backend), np.errstate(all="ignore"):
        try:
            y, dx, gradients = one_by_one(net, x, lambda y: fill(y.shape, seed + 1, special))
        except cc.ShapeError:  # the maps have become too small for a window
            return
        for name, layer in net.walk():
            if name in keys:
                layer.key = keys[name]
        net.zero_grad()
        found, context = net.apply(x)
        np.testing.assert_array_equal(found, y)
        np.testing.assert_array_equal(context.backward(fill(y.shape, seed + 1, special)), dx)
    for name, parameter in net.parameters().items():
        np.testing.assert_array_equal(parameter.grad, gradients[name], err_msg=name)


def parts(net):
    return [(part.name, type(part.layer).__name__) for part in fused(net.parts())]


def test_what_is_run_for_the_layers_of_a_network():
    conv, again, relu = ly.Conv2d(1, 1, 1, seed=0), ly.Conv2d(1, 1, 1, seed=0), ly.ReLU
    net = ly.Sequential(conv, relu(), ly.MaxPool2d(2), ly.MaxPool2d(2), ly.Sequential(again, relu()), ly.AvgPool2d(2))
    assert parts(net) == [
        ("0", "Conv2d"), ("2", "MaxPool2d"), ("3", "MaxPool2d"), ("4.0", "Conv2d"), ("5", "AvgPool2d"),
    ]  # fmt: skip
    with recording() as calls:
        net.apply(np.ones((1, 1, 8, 8), np.float32))
    assert [call.name for call in calls] == ["conv", "relu_max_pool", "max_pool", "conv_relu", "avg_pool"]
    assert net.apply(np.ones((1, 1, 8, 8), np.float32))[1].learns
    assert not net.freeze().apply(np.ones((1, 1, 8, 8), np.float32))[1].learns


def test_subclasses_run_as_they_are():
    class Twice(ly.Conv2d):
        def apply(self, x):
            y, context = super().apply(x)
            return y, context

    class Own(ly.Sequential):
        def apply(self, x):
            return super().apply(x)

    net = ly.Sequential(Twice(1, 1, 1, seed=0), ly.ReLU(), Own(ly.ReLU(), ly.MaxPool2d(2)))
    assert [part.layer for part in fused(net.parts())] == list(net.layers)


# --- laying out anew ---


@pytest.mark.parametrize("engine", NATIVE, ids=str)
@examples(40)
@given(data=st.data())
def test_an_array_laid_out_anew_holds_the_same(engine, data):
    rank, sizes = data.draw(st.integers(1, 3)), st.integers(0, 20)
    shape = tuple(data.draw(st.lists(sizes, min_size=rank + 2, max_size=rank + 2)))
    dtype = data.draw(st.sampled_from([np.float32, np.float64, np.int32]))
    last = data.draw(st.booleans())
    a = np.arange(int(np.prod(shape)), dtype=dtype).reshape(shape)
    with engine.running():
        start = launch.dense(a, last)
        found = launch.dense(start, not last)
    for b, layout in ((start, last), (found, not last)):
        np.testing.assert_array_equal(b, a)
        assert (np.moveaxis(b, 1, -1) if layout else b).flags.c_contiguous


@pytest.mark.parametrize("shape", [(2, 64, 7, 7), (3, 3, 33, 35), (2, 512, 600), (1, 700, 1601), (1100, 31, 5, 7)])
def test_large_arrays_are_laid_out_by_every_number_of_threads(shape):
    a = RNG.standard_normal(shape, np.float32)
    for threads in (1, 2, 3):
        with native.use_threads(threads):
            last = launch.dense(a, True)
            again = launch.dense(last, False)
        np.testing.assert_array_equal(last, a)
        np.testing.assert_array_equal(again, a)


def test_flatten_takes_features_map_by_map_in_either_format():
    a = RNG.standard_normal((3, 5, 2, 4), np.float32)
    for x in (a, launch.dense(a, True)):
        y, context = ly.Flatten().apply(x)
        np.testing.assert_array_equal(y, a.reshape(3, 40))
        np.testing.assert_array_equal(context.backward(y), a)


# --- in place ---


def test_backward_leaves_its_callers_gradient_alone():
    """Whatever stands last, and whatever hands dy on: dropout when evaluated, a view, paths, nothing at all."""
    lasts = [
        ly.ReLU(), ly.Tanh(), ly.Sigmoid(), ly.Dropout(0.5, seed=1), ly.Flatten(), ly.Sequential(),
        ly.Branches(ly.Sequential(), ly.ReLU(), join="add"), ly.Branches(ly.ReLU(), ly.Tanh()),
        ly.HeteroPool2d({"max": 1, "avg": 2}, 1),
    ]  # fmt: skip
    x = RNG.standard_normal((2, MAPS, 4, 4), np.float32)
    for mode in ("train", "eval"):
        for last in lasts:
            net = ly.Sequential(ly.Conv2d(MAPS, MAPS, 3, padding=1, seed=1), ly.ReLU(), ly.Tanh(), last)
            y, context = getattr(net, mode)().apply(launch.dense(x, True))
            dy = RNG.standard_normal(y.shape).astype(np.float32)
            kept = dy.copy()
            first = context.backward(dy)
            np.testing.assert_array_equal(dy, kept)
            np.testing.assert_array_equal(context.backward(dy), first)  # nor has it touched what was kept for backward
            assert not np.shares_memory(first, dy)


@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid", "dropout"])
def test_a_spare_gradient_becomes_the_next_one(name):
    x, dy = (RNG.standard_normal((2, 3, 4, 5), np.float32) for _ in range(2))
    _, context = cc.ops.registry[name].function(x, *([(1, 0)] if name == "dropout" else []), backend="c")
    expected = context.backward(dy)[0]
    (found, *_) = context.backward(dy, spare=True)
    assert found is dy
    np.testing.assert_array_equal(found, expected)


def test_a_spare_gradient_is_masked_where_it_stands():
    x, w = RNG.standard_normal((2, 3, 6, 6), np.float32), RNG.standard_normal((4, 3, 3, 3), np.float32)
    y, context = cc.ops.conv_relu(x, w, backend="c")
    dy = RNG.standard_normal(y.shape).astype(np.float32)
    expected = context.backward(dy)
    found = context.backward(dy.copy(), spare=True)
    for a, b in zip(found[:2], expected[:2], strict=True):
        np.testing.assert_array_equal(a, b)
    passed = np.where(y > 0, dy, 0)
    context.backward(dy, spare=True)
    np.testing.assert_array_equal(dy, passed)
