"""What a notebook shows of an object: short, without addresses, and a shape instead of an array."""

from __future__ import annotations

import json
import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import cnncore as cc
from cnncore import layers as ly
from cnncore import models
from cnncore.bench import problems_of
from cnncore.history import History
from cnncore.ops import registry
from cnncore.ops.domain import Draw


def check(thing: object, *parts: str) -> None:
    """The repr is short and plain, and holds these parts."""
    shown = repr(thing)
    assert len(shown) <= 300 and "\n" not in shown, shown
    assert not re.search(r"0x[0-9a-f]{4}| object at |array\(|<function", shown), shown
    assert [part for part in parts if part not in shown] == [], shown


@pytest.mark.parametrize("name", list(registry))
def test_calls_of_every_op(name: str) -> None:
    op = registry[name]
    for seed in range(3):
        case = op.domain(Draw(seed))
        check(case, "Case(")
        _, context = op.function(*case.arrays, **case.attrs)
        check(context, f"Context({name} on {context.backend}: ", "float64")
        check(context.plan, f"Plan({name} on ")
        check(context.spec, "Spec(")
    check(op, f"Op('{name}')")


def test_a_context_names_shapes() -> None:
    x, w = np.ones((2, 1, 8, 8), np.float32), np.ones((4, 1, 5, 5), np.float32)
    _, context = cc.ops.conv(x, w, padding=2, backend="numpy")
    assert repr(context) == "Context(conv on numpy: 2x1x8x8, 4x1x5x5, none -> 2x4x8x8, float32)"
    _, context = cc.ops.concat(*[np.ones((1, 1, 2, 2))] * 500)
    check(context, "1x1x2x2, ... (500 arrays) -> 1x500x2x2")
    _, context = cc.ops.softmax_cross_entropy(np.ones((3, 2)), np.array([0, 1, 0]))
    check(context, "3x2, 3 -> scalar")


LAYERS = {
    "an op": ly.Conv2d(1, 2, 3),
    "no parameter": ly.ReLU(),
    "a view": ly.Flatten(),
    "many": cc.Sequential(*[ly.ReLU() for _ in range(100)]),
    "branches": cc.Branches(ly.ReLU(), ly.Tanh()),
    "shares": ly.HeteroPool2d({"max": 1, "avg": 1}, 2),
}


@pytest.mark.parametrize("name", LAYERS)
def test_contexts_of_layers(name: str) -> None:
    _, context = LAYERS[name].apply(np.ones((2, 2 if name == "shares" else 1, 8, 8), np.float32))
    check(context, type(context).__name__)


def test_a_context_of_ones_own() -> None:
    class Own:
        def backward(self, dy: Any) -> Any:
            return dy

    class Same(ly.Layer):
        def apply(self, x: Any) -> Any:
            return x, Own()

    _, context = Same().apply(np.ones(3))
    assert repr(context) == "OwnContext(Own of Same)"
    _, context = cc.Sequential(Same(), Same()).apply(np.ones(3))
    assert repr(context) == "Chain(2 parts)"
    context.backward(np.ones(3), last=True)
    assert repr(context) == "Chain(used up)"


@pytest.mark.parametrize("name", [*models.DIGITS, "alexnet", "cuda_convnet"])
def test_networks_have_a_line_a_layer(name: str) -> None:
    net = getattr(models, name)(**models.DIGITS.get(name, {}))
    shown = repr(net)
    assert len(shown.splitlines()) <= 2 + 2 * len(list(net.walk())) and max(map(len, shown.splitlines())) <= 120
    assert not re.search(r"0x[0-9a-f]{4}| object at |array\(", shown)


def test_parameters_and_optimisers() -> None:
    net = models.lenet()
    check(net.parameters()["0.weight"], "shape=(32, 1, 5, 5)", "float32")
    check(
        cc.optim.SGD(net, lr=0.05, momentum=0.9), "SGD(lr=0.05, momentum=0.9", "weight_decay=0.0; 8 parameters, 0 steps"
    )
    check(cc.optim.Adam(net, weight_decay={"*.bias": 0.0, "*": 1e-4}), "Adam(lr=0.001", "weight_decay=by parameter")
    check(cc.optim.StepLR(3), "StepLR(step_size=3")


def test_trainer_and_history() -> None:
    net = cc.Sequential(ly.Linear(4, 3, seed=0))
    trainer = cc.Trainer(net, cc.optim.SGD(net, lr=0.1), quiet=True)
    check(trainer, "Trainer(Sequential, SGD(lr=0.1", "0 epochs done")
    check(trainer.history, "History(no epochs)")
    x, y = np.random.default_rng(0).random((12, 4), np.float32), np.arange(12) % 3
    history = trainer.fit((x, y), (x, y), epochs=3)
    check(trainer, "3 epochs done")
    check(history, "History(3 epochs; the last: epoch 3, train_loss ", "test_accuracy 0.", "lr 0.1")
    assert isinstance(history, list) and json.loads(json.dumps(history)) == list(history)
    lines = [["".join(cell.itertext()) for cell in row] for row in ElementTree.fromstring(history._repr_html_())[1]]
    assert [line[0] for line in lines] == ["1", "2", "3"] and lines[2][1] == f"{history[2]['train_loss']:.4g}"


def test_a_resumed_history_shows_itself_too(tmp_path) -> None:
    pytest.importorskip("safetensors")
    x, y = np.random.default_rng(0).random((12, 4), np.float32), np.arange(12) % 3
    for resume in (False, True):
        net = cc.Sequential(ly.Linear(4, 3, seed=0))
        trainer = cc.Trainer(net, cc.optim.SGD(net, lr=0.1), quiet=True, run_dir=tmp_path)
        trainer.fit((x, y), epochs=2, resume=resume)
        check(trainer.history, "History(2 epochs; ")


def test_tables_escape_what_they_show() -> None:
    shown = History([{"<b>": "<i>"}])._repr_html_()
    assert "&lt;b&gt;</th>" in shown and "&lt;i&gt;</td>" in shown
    assert list(ElementTree.fromstring(History()._repr_html_())[1]) == []


@pytest.mark.parametrize("name", list(registry))
def test_benchmark_problems(name: str) -> None:
    for problem in problems_of(registry[name]):
        check(problem, f"Problem(op=Op('{name}')", problem.name)


def test_registry_and_choice_of_backend() -> None:
    check(registry, f"registry of {len(registry)} ops: {next(iter(registry))}, ")
    with cc.use_backend("numpy") as choice:
        assert repr(choice) == "use_backend('numpy')"
