"""gradcheck never calls right code wrong: kinked functions without masks, as they are and with an error of 0.1 %."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kinked import CASES, Context

import cnncore as cc

FEW, ALL = range(10), range(100)


def seeds(chosen: range) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("name", "seeds"), [(name, chosen) for name in CASES])


def available(name: str) -> None:
    if name.startswith("torch"):
        pytest.importorskip("torch")


def planted(fn: Callable[..., Any], argument: int, entry: tuple[int, ...] | None) -> Callable[..., Any]:
    """The function with a backward whose gradient for one argument, or one entry of it, is 0.1 % too large."""

    def wrong(*inputs: Any) -> Any:
        y, context = fn(*inputs)

        def backward(dy: np.ndarray) -> Any:
            gradients = [None if g is None else np.array(g) for g in context.backward(dy)]
            gradients[argument][... if entry is None else entry] *= 1.001
            return tuple(gradients)

        return y, Context(backward)

    wrong.__signature__ = inspect.signature(fn)  # type: ignore[attr-defined]
    return wrong


def chosen(fn: Callable[..., Any], inputs: tuple[Any, ...], seed: int) -> tuple[int, tuple[int, ...]]:
    """A float argument, and an entry of it whose gradient is not 0."""
    rng = np.random.default_rng(1000 + seed)
    argument = int(rng.choice([i for i, a in enumerate(inputs) if a.dtype == np.float64]))
    y, context = fn(*inputs)
    places = np.argwhere(context.backward(rng.standard_normal(np.shape(y)))[argument])
    return argument, tuple(int(n) for n in places[rng.integers(len(places))])


def check_right(name: str, seeds: range) -> None:
    available(name)
    for seed in seeds:
        fn, inputs = CASES[name](seed)
        report = cc.gradcheck(fn, inputs, seed=seed)
        assert report.ok, f"seed {seed}\n{report}"
        assert report.verdict == "ok", f"seed {seed}\n{report}"


def check_planted(name: str, seeds: range) -> None:
    available(name)
    for seed in seeds:
        fn, inputs = CASES[name](seed)
        argument, entry = chosen(fn, inputs, seed)
        for place in (None, entry):
            report = cc.gradcheck(planted(fn, argument, place), inputs, seed=seed)
            verdicts = [a.verdict for a in report.arguments]
            assert verdicts.pop(argument) == "wrong", f"seed {seed}, argument {argument}, {place}\n{report}"
            assert set(verdicts) <= {"ok", "constant"}, f"seed {seed}, argument {argument}, {place}\n{report}"
            if place is not None:
                assert [w.index for w in report.wrong] == [place], f"seed {seed}\n{report}"


@seeds(FEW)
def test_right_functions_are_ok_in_ten_seeds(name: str, seeds: range) -> None:
    check_right(name, seeds)


@seeds(FEW)
def test_an_error_of_one_in_a_thousand_is_found_in_ten_seeds(name: str, seeds: range) -> None:
    check_planted(name, seeds[:3] if name.startswith("large") else seeds)


@pytest.mark.slow
@seeds(ALL)
def test_right_functions_are_ok_in_a_hundred_seeds(name: str, seeds: range) -> None:
    check_right(name, seeds)


@pytest.mark.slow
@seeds(ALL)
def test_an_error_of_one_in_a_thousand_is_found_in_a_hundred_seeds(name: str, seeds: range) -> None:
    check_planted(name, seeds)
