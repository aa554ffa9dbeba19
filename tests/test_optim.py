"""Optimisers against loops written from the papers' formulas, one number at a time; schedules against closed forms."""

import math

import numpy as np
import pytest

import cnncore as cc
from cnncore import layers as ly
from cnncore.optim import SGD, Adam, CosineLR, StepLR

STEPS = 7


def network():
    return ly.Sequential(ly.Linear(3, 4, seed=1, dtype=np.float64), ly.Linear(4, 2, seed=2, dtype=np.float64))


def gradients(net, seed=0):
    """The same sequence of gradients for every caller: STEPS dictionaries."""
    rng = np.random.default_rng(seed)
    return [{n: rng.standard_normal(p.value.shape) for n, p in net.parameters().items()} for _ in range(STEPS)]


def run(net, optimizer, rates=None):
    for i, step in enumerate(gradients(net)):
        for name, parameter in net.parameters().items():
            parameter.grad = step[name]
        optimizer.step(None if rates is None else rates[i])
    return {name: p.value for name, p in net.parameters().items()}


def check_each_number(before, after, net, follow):
    """Every single weight of `after` is follow(first value, its gradients in order)."""
    steps = gradients(net)
    for name, value in after.items():
        for at in np.ndindex(value.shape):
            expected = follow(name, float(before[name][at]), [float(step[name][at]) for step in steps])
            assert value[at] == pytest.approx(expected, rel=1e-12, abs=1e-14), (name, at)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_follows_its_formula(momentum, nesterov):
    net = network()
    before = net.state_dict()
    rates = [0.1 / (i + 1) for i in range(STEPS)]
    after = run(net, SGD(net, 0.1, momentum, nesterov, weight_decay=0.01), rates)

    def follow(name, w, slopes):
        v = 0.0
        for lr, slope in zip(rates, slopes, strict=True):
            slope += 0.01 * w
            v = momentum * v + slope
            w -= lr * (slope + momentum * v if nesterov else v)
        return w

    check_each_number(before, after, net, follow)


def test_adam_follows_its_formula():
    net = network()
    before = net.state_dict()
    after = run(net, Adam(net, 0.02, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.01))

    def follow(name, w, slopes):
        m = s = 0.0
        for t, slope in enumerate(slopes, 1):
            slope += 0.01 * w
            m = 0.8 * m + 0.2 * slope
            s = 0.99 * s + 0.01 * slope**2
            w -= 0.02 * (m / (1 - 0.8**t)) / (math.sqrt(s / (1 - 0.99**t)) + 1e-6)
        return w

    check_each_number(before, after, net, follow)


def test_weight_decay_goes_by_group_and_the_first_fit_wins():
    net = ly.Sequential(ly.Conv2d(1, 2, 3, seed=0), ly.Flatten(), ly.Linear(2, 2, seed=0), ly.Linear(2, 2, seed=0))
    groups = {"*.bias": 0.0, "3.*": 0.3, ly.Conv: 0.1, ly.Linear: 0.2}
    assert SGD(net, 0.1, weight_decay=groups).decay == {
        "0.weight": 0.1, "0.bias": 0.0, "2.weight": 0.2, "2.bias": 0.0, "3.weight": 0.3, "3.bias": 0.0,
    }  # fmt: skip
    assert SGD(net, 0.1, weight_decay={ly.Conv2d: 0.1}).decay["2.weight"] == 0.0
    assert set(SGD(net, 0.1, weight_decay=0.5).decay.values()) == {0.5}


def test_weight_decay_pulls_only_its_group():
    net = network()
    before = net.state_dict()
    for parameter in net.parameters().values():
        parameter.grad = np.zeros_like(parameter.value)
    SGD(net, 0.5, weight_decay={"1.weight": 0.1}).step()
    for name, a in net.state_dict().items():
        np.testing.assert_allclose(a, before[name] * (0.95 if name == "1.weight" else 1), rtol=1e-15)


def test_a_parameter_without_a_gradient_stays():
    net = network()
    before = net.state_dict()
    net[0].weight.grad = np.ones((4, 3))
    Adam(net, weight_decay=0.1).step()
    moved = {name for name, a in net.state_dict().items() if (a != before[name]).any()}
    assert moved == {"0.weight"}


@pytest.mark.parametrize("make", [lambda net: SGD(net, 0.1, 0.9), lambda net: Adam(net)])
def test_a_state_loaded_goes_on_as_if_never_stopped(make):
    straight, first, second = network(), network(), network()
    optimizer = make(straight)
    run(straight, optimizer)
    run(straight, optimizer)
    optimizer = make(first)
    run(first, optimizer)
    second.load_state_dict(first.state_dict())
    resumed = make(second)
    resumed.load_state_dict(optimizer.state_dict())
    run(first, optimizer)  # must not touch what was handed over
    run(second, resumed)
    for name, a in straight.state_dict().items():
        np.testing.assert_array_equal(second.state_dict()[name], a)
    assert resumed.steps == 2 * STEPS


def test_an_optimizer_state_that_does_not_fit_changes_nothing():
    net = network()
    optimizer = SGD(net, 0.1, 0.9)
    run(net, optimizer)
    before = optimizer.state_dict()
    for name, wrong, error in [
        ("velocity.0.weight", np.zeros((3, 4)), cc.ShapeError),
        ("steps", np.array(-1), cc.DTypeError),
        ("velocity.2.weight", np.zeros(1), cc.CnncoreError),
    ]:
        state = {key: a + 1 for key, a in before.items()} | {name: wrong}
        with pytest.raises(error, match=name):
            optimizer.load_state_dict(state)
    for name, a in optimizer.state_dict().items():
        np.testing.assert_array_equal(a, before[name])


def test_step_schedule_falls_at_every_step():
    schedule = StepLR(3, gamma=0.5)
    rates = [schedule(8.0, epoch) for epoch in (0, 2.99, 3, 5, 6, 9)]
    assert rates == [8.0, 8.0, 4.0, 4.0, 2.0, 1.0]


def test_cosine_schedule_takes_half_a_period():
    schedule = CosineLR(8, least=0.1)
    expected = [1.1, 0.1 + (1 + math.sqrt(0.5)) / 2, 0.6, 0.1, 0.1]
    assert [schedule(1.1, epoch) for epoch in (0, 2, 4, 8, 11)] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda net: SGD(net, -0.1), "SGD: lr must be a finite number at least 0, got -0.1"),
        (lambda net: SGD(net, float("nan")), "lr must be a finite number"),
        (lambda net: SGD(net, "0.1"), "lr must be a finite number"),
        (lambda net: Adam(net, betas=(0.9, 1.0)), "Adam: beta2 must be a finite number at least 0 and below 1"),
        (lambda net: SGD(net, 0.1, weight_decay={"fc*": 0.1}), "weight_decay: 'fc*' fits none of 0.weight, 0.bias"),
        (lambda net: SGD(net, 0.1, weight_decay={ly.Conv: 0.1}), "fits none of"),
        (lambda net: SGD(net, 0.1, weight_decay={"*": -1}), "weight_decay of '*' must be"),
        (lambda net: StepLR(0), "StepLR: step_size must be a finite number above 0"),
        (lambda net: CosineLR(-1), "CosineLR: epochs must be"),
    ],
)
def test_wrong_settings_say_what_is_wrong(make, text):
    with pytest.raises(cc.CnncoreError) as caught:
        make(network())
    assert text in str(caught.value)
