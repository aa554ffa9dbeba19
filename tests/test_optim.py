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


# --- a parameter that gets a gradient only now and then ---


def test_adam_counts_the_steps_of_every_parameter_by_itself():
    net = network()
    optimizer = Adam(net, lr=0.01)
    late, always = net[1].bias, net[0].bias
    for _ in range(1000):
        always.grad = np.ones_like(always.value)
        optimizer.step()
    before = late.value.copy()
    late.grad = np.ones_like(late.value)
    optimizer.step()
    np.testing.assert_allclose(before - late.value, 0.01, rtol=1e-6)  # Kingma & Ba: the first step is lr long
    assert (optimizer.steps, optimizer.updates["0.bias"], optimizer.updates["1.bias"]) == (1001, 1001, 1)
    assert optimizer.updates["1.weight"] == 0


@pytest.mark.parametrize(
    "make", [lambda net: Adam(net, weight_decay=0.1), lambda net: SGD(net, 0.1, 0.9, True, weight_decay=0.1)]
)
def test_steps_without_a_gradient_are_no_steps(make):
    """A parameter that sees a gradient in every third step goes where one goes that sees the same ones in a row."""
    now_and_then, in_a_row = network(), network()
    first, second = make(now_and_then), make(in_a_row)
    for step in gradients(in_a_row):
        for _ in range(2):
            now_and_then.zero_grad()
            first.step()
        for net, optimizer in ((now_and_then, first), (in_a_row, second)):
            for name, parameter in net.parameters().items():
                parameter.grad = step[name]
            optimizer.step()
    for name, a in in_a_row.state_dict().items():
        np.testing.assert_array_equal(now_and_then.state_dict()[name], a)


def test_counts_come_back_with_the_state():
    net = network()
    optimizer = Adam(net)
    net[1].bias.grad = np.ones(2)
    optimizer.step()
    other = Adam(network())
    other.load_state_dict(optimizer.state_dict())
    assert other.updates == optimizer.updates == dict.fromkeys(optimizer.updates, 0) | {"1.bias": 1}


def test_a_state_that_does_not_count_updates_is_refused_by_name():
    """As optimisers saved it before they counted every parameter's own."""
    optimizer = Adam(network())
    old = {name: a for name, a in optimizer.state_dict().items() if not name.startswith("updates.")}
    with pytest.raises(cc.CnncoreError, match=r"the names differ: missing updates\.0\.bias"):
        optimizer.load_state_dict(old)


# --- schedules between whole epochs ---


def test_step_schedule_falls_where_rounding_just_misses_a_step():
    assert [StepLR(0.1, 0.5)(1.0, k / 10) for k in range(5)] == [1, 0.5, 0.25, 0.125, 0.0625]
    for parts in range(1, 130):
        for k in range(3 * parts):
            for done in (k / parts, k // parts + (k % parts) / parts):  # as users write it, and as the Trainer does
                assert StepLR(1 / parts, 0.5)(1.0, done) == 0.5**k
                assert StepLR(3 / parts, 0.5)(1.0, done) == 0.5 ** (k // 3)


def test_step_schedule_does_not_fall_early():
    schedule = StepLR(0.1, 0.5)
    assert [schedule(1.0, k / 10 - 1e-12) for k in range(1, 30)] == [0.5 ** (k - 1) for k in range(1, 30)]


def test_cosine_schedule_ends_are_exact():
    for least in (0.125, 0.003, 1e-7, 0.07):
        schedule = CosineLR(0.3, least=least)
        for lr in (0.1, 0.3, 1.125, 7e-5):
            assert schedule(lr, 0) == lr
            assert schedule(lr, 3 / 10) == schedule(lr, 0.1 + 0.2) == schedule(lr, 7) == least


# --- NumPy's scalars ---

SCALARS = [np.float32(0.5), np.float64(0.5), np.float16(0.5), np.array(0.5), np.array(0.5, np.float32)]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("half", SCALARS, ids=repr)
def test_rates_may_be_numpy_scalars(half):
    def settings(half):
        net = network()
        net[0].weight.grad = np.ones((4, 3))
        optimizer = SGD(net, half, half, weight_decay={"*.bias": half})
        optimizer.step(half)
        optimizer.lr = half  # as a user's own loop may set it
        optimizer.step()
        adam = Adam(net, half, (half, half), half, weight_decay=half)
        return repr((optimizer.settings(), adam.settings(), StepLR(half, half), CosineLR(half, half))), net[0].weight

    (told, found), (expected, value) = settings(half), settings(0.5)
    assert told == expected and "np." not in told
    np.testing.assert_array_equal(found.value, value.value)
    for schedule in (StepLR(half, half), CosineLR(half, half)):
        assert type(schedule(half, half)) is float


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), "0.1", -1, None, True, np.float32("nan"), np.ones(1), 1j])
def test_a_rate_that_is_none_is_refused_before_anything_moves(rate):
    net = network()
    before = net.state_dict()
    optimizer = SGD(net, 0.1)
    net[0].weight.grad = np.ones((4, 3))
    if rate is not None:
        with pytest.raises(cc.CnncoreError, match="SGD: lr must be a finite number at least 0, got"):
            optimizer.step(rate)
    optimizer.lr = rate
    with pytest.raises(cc.CnncoreError, match="SGD: lr must be a finite number at least 0, got"):
        optimizer.step()
    assert optimizer.steps == 0
    np.testing.assert_array_equal(net[0].weight.value, before["0.weight"])
