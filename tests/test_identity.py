"""What makes two runs the same: told alike by every process, and told apart by all that decides a run."""

import dataclasses
import functools
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import cnncore as cc
from cnncore import layers as ly
from cnncore.data import shift
from cnncore.identity import UnidentifiedError, differences, digest, identified, of_network
from cnncore.optim import SGD, Adam, CosineLR, StepLR
from cnncore.train import Trainer

ADDRESS = re.compile(r"0x[0-9a-f]{4,}|object at")


def halve(lr, epoch, every=1):
    return lr * 0.5 ** (epoch // every)


def measured(value):
    """A metric; every one has the same name."""

    def m(outputs, labels):
        return value

    return m


def problem(seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((12, 1, 6, 6), dtype=np.float32), rng.integers(0, 3, 12)


def network(pool="max", dropout=0.2, units=8, **conv):
    return cc.Sequential(
        ly.Conv2d(1, 4, 3, padding=1, seed=1, **conv), ly.ReLU(), ly.named_pool("test", pool, 2, 2, stride=2, seed=2),
        ly.Flatten(), ly.Dropout(dropout, seed=3), ly.Linear(36, units, seed=4), ly.ReLU(), ly.Linear(units, 3, seed=5),
    )  # fmt: skip


def run(run_dir, net=None, *, epochs=1, resume=False, data=None, test=None, augment=None, make=SGD, lr=0.05, **choices):
    net = network() if net is None else net
    one = Trainer(net, make(net, lr), run_dir=run_dir, **{"quiet": True, "seed": 4, **choices})
    one.fit(data or problem(), test or problem(1), epochs=epochs, batch_size=4, augment=augment, resume=resume)
    return one


# --- in another process ---


def closed(k, table=()):
    def augment(x, rng):
        return x + x.dtype.type(k * len(table))

    return augment


@dataclasses.dataclass
class Warmup:
    steps: int
    names: frozenset = frozenset({"a", "b", "c", "d"})

    def __call__(self, lr, epoch):
        return lr


class Ramp:
    def __init__(self, top):
        self.top = top

    def __call__(self, lr, epoch):
        return lr

    def method(self, lr, epoch):
        return lr


def in_a_set(lr, epoch):
    return lr if epoch not in {"a", "b", "c", "d", "e"} else 0


THINGS = {
    "a partial": functools.partial(halve, every=2),
    "a partial of a partial": functools.partial(functools.partial(halve, 0.1), every=np.int64(2)),
    "a lambda": lambda lr, epoch: lr / (1 + epoch),
    "a closure": closed(2, ("a", 3.5, np.arange(4))),
    "a dataclass": Warmup(3),
    "an object": Ramp({"x": 0.5}),
    "a method": Ramp(2).method,
    "a set among the constants": in_a_set,
    "an op": cc.ops.softmax_cross_entropy,
    "a partial of an op": functools.partial(cc.ops.softmax_cross_entropy, reduction="sum"),
    "a shift": shift(3),
    "a schedule": StepLR(2),
    "a class": Ramp,
    "a builtin": max,
    "a ufunc": np.tanh,
    "a module": np.linalg,
    "a network": network(),
    "text like an address": "0x7fffffff ...",
}


def test_every_process_tells_the_same():
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_identity as t\n"
        "for name, thing in t.THINGS.items(): print(t.identified(thing))"
    )
    told = [identified(thing) for thing in THINGS.values()]
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
        assert found.stdout.splitlines() == told, found.stderr
    assert not any(ADDRESS.search(text) for name, text in zip(THINGS, told, strict=True) if name[:4] != "text")
    assert len(set(told)) == len(told)


def test_a_partial_is_resumed_in_a_second_process(tmp_path):
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_identity as t; import functools\n"
        f"t.run({str(tmp_path)!r}, schedule=functools.partial(t.halve, every=2), augment=t.closed(1))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
    choices = {"schedule": functools.partial(halve, every=2), "augment": closed(1)}
    assert len(run(tmp_path, epochs=2, resume=True, **choices).history) == 2
    with pytest.raises(cc.CnncoreError) as caught:
        run(tmp_path, epochs=3, resume=True, **{**choices, "schedule": functools.partial(halve, every=3)})
    text = str(caught.value)
    assert re.search(r"schedule: partial\(halve.*every=2\) in the checkpoint, partial\(halve.*every=3\) now$", text)
    assert not ADDRESS.search(text)


# --- what differs ---


def one():
    return lambda x, rng: x


def another():
    return lambda x, rng: x * 1


def captured(value):
    return lambda x, rng: (x, value)[0]


def of_constants(**constants):
    """A function that reads `constants` of its module."""
    module = {"np": np, **constants}
    exec("def augment(x, rng):\n    return [i * FACTOR for i in x] + MEAN", module)
    return module["augment"]


def recursive(k):
    def augment(x, rng, depth=k):
        return augment(x, rng, depth - 1) if depth else x

    return augment


PAIRS = [
    (shift(1), shift(3)),
    (closed(1), closed(2)),
    (closed(1, (1,)), closed(1, (1.0,))),
    (captured(np.zeros(3)), captured(np.ones(3))),
    (captured(np.zeros(3)), captured(np.zeros((3, 1)))),
    (captured({"a": 1}), captured({"a": 2})),
    (captured(one()), captured(another())),
    (captured(Ramp(1)), captured(Ramp(2))),
    (captured("a" * 1000), captured("a" * 999 + "b")),
    (one(), another()),
    (lambda x, rng, k=1: x, lambda x, rng, k=2: x),
    (lambda x, rng, *, k=1: x, lambda x, rng, *, k=2: x),
    (recursive(1), recursive(2)),
    (functools.partial(halve, every=2), functools.partial(halve, every=3)),
    (functools.partial(halve, 2), functools.partial(halve, every=2)),
    (Warmup(1), Warmup(2)),
    (StepLR(1), CosineLR(1)),
    (None, halve),
    (network(), network("avg")),
    (of_constants(FACTOR=2, MEAN=0.5), of_constants(FACTOR=3, MEAN=0.5)),
    (of_constants(FACTOR=2, MEAN=np.zeros(3)), of_constants(FACTOR=2, MEAN=np.ones(3))),
    (of_constants(FACTOR=2), of_constants(FACTOR=2, MEAN=(1,))),
    (of_constants(FACTOR=2, MEAN=[0.5]), of_constants(FACTOR=2, MEAN=[0.6])),
    (of_constants(FACTOR=2, MEAN={"a": 1}), of_constants(FACTOR=2, MEAN={"a": 2})),
]


@pytest.mark.parametrize("pair", PAIRS, ids=range(len(PAIRS)))
def test_what_differs_is_told_apart(pair):
    first, second = map(identified, pair)
    assert first != second
    assert first == identified(pair[0]) and len(first) < 500


def test_a_function_that_has_run_is_told_as_before():
    """Python rewrites the code of functions that run often."""
    schedule = functools.partial(halve, every=2)
    before = identified(schedule)
    assert [schedule(1.0, epoch) for epoch in range(2000)][3] == 0.5
    assert identified(schedule) == before


def test_equal_things_made_twice_are_told_alike():
    for make in (lambda: closed(1, (2, np.ones(3))), lambda: recursive(3), lambda: Ramp([1, 2]), lambda: shift(2)):
        assert identified(make()) == identified(make())
    assert identified(StepLR(np.int64(2), np.float64(0.5))) == identified(StepLR(2.0, 0.5))
    assert identified(captured(np.float64(0.5))) == identified(captured(0.5))
    assert identified(captured({"a": 1, "b": 2})) == identified(captured({"b": 2, "a": 1}))


@pytest.mark.parametrize(
    "thing",
    [
        np.random.default_rng(0),
        iter([1]),
        np.array([object()]),
        object(),
        {"a": (np.random.default_rng(0),)},
        functools.reduce(lambda inner, _: (inner,), range(5000), ()),
        functools.reduce(lambda inner, _: (inner, inner), range(50), ()),
    ],
    ids=["generator", "iterator", "objects", "object", "inside", "deep", "wide"],
)
def test_what_cannot_be_identified_is_said(thing):
    with pytest.raises(UnidentifiedError):
        identified(thing)
    with pytest.raises(UnidentifiedError):
        identified(captured(thing))


def test_the_digest_is_one_of_the_elements_in_their_order():
    a = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    assert digest(a) == digest(np.asfortranarray(a)) == digest(a.repeat(2, axis=0)[::2]) != digest(a[::-1])
    assert digest(np.zeros(())) != digest(np.ones(())) and digest(np.zeros((0, 3))) == digest(np.zeros((3, 0)))
    for at in np.ndindex(a.shape):
        changed = a.copy()
        changed[at] = np.nextafter(changed[at], np.float32(100))
        assert digest(changed) != digest(a)
    long = np.zeros((3, 2**23), np.float32)  # in several blocks
    assert digest(long) == digest(long.copy()) != digest(long[:2])


# --- of a network ---

NETWORKS = {
    "pooling": (lambda: network("avg"), "layer 2: MaxPool2d(kernel_size=2, stride=2) in the checkpoint, AvgPool2d("),
    "power": (lambda: network("lp4"), "LPPool2d(kernel_size=2, stride=2, p=4.0, normalize=True) now"),
    "dropout": (lambda: network(dropout=0), "network layer 4: Dropout(p=0.2) in the checkpoint, Dropout(p=0.0) now"),
    "size": (lambda: network(units=9), "weight float32 (8, 36)"),
    "algorithm": (lambda: network(algorithm="direct"), "algorithm='direct'"),
    "frozen": (lambda: frozen(network()), "(4, 1, 3, 3), bias float32 (4,), frozen now"),
    "evaluates": (lambda: still(network()), "Dropout(p=0.2) in the checkpoint, Dropout(p=0.2), evaluates now"),
    "order": (lambda: reordered(network()), "network layer 1: ReLU() in the checkpoint, MaxPool2d("),
    "longer": (lambda: cc.Sequential(*network().layers, ly.Dropout(0.1)), "nothing in the checkpoint, Dropout("),
}  # fmt: skip


def frozen(net):
    net[0].freeze()
    return net


def still(net):
    net[4].eval()
    return net


def reordered(net):
    layers = list(net.layers)
    layers[1], layers[2] = layers[2], layers[1]
    return cc.Sequential(*layers)


@pytest.mark.parametrize("case", NETWORKS)
def test_another_network_is_refused_by_name(tmp_path, case):
    make, text = NETWORKS[case]
    run(tmp_path)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(cc.CnncoreError) as caught:
        run(tmp_path, make(), epochs=2, resume=True)
    assert "cannot resume another run: " in str(caught.value) and text in str(caught.value)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
    run(tmp_path, epochs=2, resume=True)


class Scaled(ly.Layer):
    """A layer of a user's, that does not describe itself."""

    def __init__(self, factor, rounds=1):
        self.factor, self.rounds = factor, rounds
        self.weight = ly.Parameter(np.ones(3))
        self._calls = 0
        self.seen = np.zeros(4)

    def apply(self, x):
        self._calls += 1
        self.seen = self.seen + 1
        return x, ly.ViewContext(lambda dy: dy)


def test_layers_of_ones_own_are_known_by_their_arguments_and_not_by_their_state():
    layer = Scaled(2)
    before = of_network(cc.Sequential(layer))
    layer.apply(np.zeros(3))
    assert of_network(cc.Sequential(layer)) == before == of_network(cc.Sequential(Scaled(np.int64(2))))
    assert differences(before, of_network(cc.Sequential(Scaled(3)))) == [
        "layer 0: Scaled(factor=2, rounds=1), weight float64 (3,) in the checkpoint, "
        "Scaled(factor=3, rounds=1), weight float64 (3,) now"
    ]


def test_a_layer_that_stands_twice_is_another_network_than_two():
    shared, again = ly.ReLU(), ly.ReLU()
    assert of_network(cc.Sequential(shared, shared)) != of_network(cc.Sequential(shared, again))
    assert of_network(ly.Linear(2, 3)) != of_network(ly.Linear(2, 3, dtype=np.float64))
    assert of_network(cc.Branches(shared, again)) != of_network(cc.Branches(shared, again, join="add"))


# --- of a run ---

CHANGES = {
    "schedule": ({"schedule": CosineLR(7)}, "schedule: CosineLR(epochs=6.0, least=0.0) in the checkpoint, CosineLR(ep"),
    "loss": (
        {"loss": functools.partial(cc.ops.softmax_cross_entropy, reduction="sum")},
        "loss: ops.softmax_cross_entropy in the checkpoint, partial(ops.softmax_cross_entropy, reduction='sum') now",
    ),
    "augmentation": ({"augment": shift(3)}, "augmentation: shift(1) in the checkpoint, shift(3) now"),
    "no augmentation": ({"augment": None}, "augmentation: shift(1) in the checkpoint, None now"),
    "seed": ({"seed": 5}, "seed: 4 in the checkpoint, 5 now"),
    "rate": ({"lr": 0.06}, "optimizer lr: 0.05 in the checkpoint, 0.06 now"),
    "optimizer": ({"make": Adam}, "optimizer name: SGD in the checkpoint, Adam now"),
    "decay": (
        {"make": lambda net, lr: SGD(net, lr, weight_decay={"5.weight": 0.1})},
        "optimizer weight_decay 5.weight: 0.0 in the checkpoint, 0.1 now",
    ),
    "metric": ({"metric": measured(1.0)}, "metric: "),
    "images": ({"data": problem(7)}, "train data: 12 samples, x float32 (1, 6, 6), y int64 () [digest "),
    "labels": ({"data": (problem()[0], (problem()[1] + 1) % 3)}, "train data: 12 samples"),
    "fewer": ({"data": tuple(a[:8] for a in problem())}, "8 samples, x float32 (1, 6, 6)"),
    "test images": ({"test": problem(7)}, "test data: 12 samples"),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGES)
def test_another_run_is_refused_by_name(tmp_path, case):
    same = {"schedule": CosineLR(6), "augment": shift(1)}
    run(tmp_path, **same)
    changes, text = CHANGES[case]
    with pytest.raises(cc.CnncoreError) as caught:
        run(tmp_path, epochs=2, resume=True, **{**same, **changes})
    assert text in str(caught.value) and not ADDRESS.search(str(caught.value))
    assert len(run(tmp_path, epochs=2, resume=True, **same).history) == 2


def test_many_differences_are_told_with_how_many_more():
    then, now = ({"net": {f"a{i}": value for i in range(9)}, "seed": value} for value in (1, 2))
    assert differences(then, now) == [
        "net a0: 1 in the checkpoint, 2 now",
        "net a1: 1 in the checkpoint, 2 now",
        "net a2: 1 in the checkpoint, 2 now",
        "6 more of the net",
        "seed: 1 in the checkpoint, 2 now",
    ]
    assert differences({"a": {"b": 1}}, {"a": {"b": 1}}) == []


def test_a_run_that_cannot_be_identified_is_told_before_it_and_not_resumed(tmp_path):
    def noisy(generator):
        return lambda x, rng: x + generator.standard_normal(x.shape).astype(x.dtype)

    with pytest.warns(
        UserWarning, match="this run cannot be resumed: nothing tells this run from others: augmentation"
    ):
        run(tmp_path, augment=noisy(np.random.default_rng(0)))
    with pytest.raises(
        cc.CnncoreError, match=r"cannot resume: nothing tells this run from others: augmentation: .*Gener"
    ):
        run(tmp_path, epochs=2, resume=True, augment=noisy(np.random.default_rng(0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(None, augment=noisy(np.random.default_rng(0)))  # nothing is saved: nothing to resume


def test_a_checkpoint_of_before_is_a_format_error(tmp_path):
    from cnncore import checkpoint

    run(tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    arrays, record = checkpoint.load(path)
    for name in ("network", "train_data", "test_data", "metric"):
        del record["settings"][name]
    checkpoint.save(path, arrays, record)
    with pytest.raises(cc.FormatError, match=r"settings must hold optimizer, .*older cnncore"):
        run(tmp_path, epochs=2, resume=True)
