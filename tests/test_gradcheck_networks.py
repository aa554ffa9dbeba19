"""gradcheck: networks, the report, the command, the example."""

from __future__ import annotations

import dataclasses
import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnncore as cc
from cnncore.cli import main
from cnncore.errors import CnncoreError
from cnncore.layers import Conv2d, Dropout, Flatten, Linear, MaxPool2d, OpContext, ReLU
from cnncore.ops import records
from cnncore.ops.records import registry

# --- networks ----------------------------------------------------------------------------------------------------


def network() -> Any:
    parts = Conv2d(1, 3, 3, seed=1), ReLU(), MaxPool2d(2), Dropout(0.25, seed=2), Flatten(), Linear(12, 4, seed=3)
    return cc.Sequential(*parts)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_network_is_checked_in_x_and_every_parameter_and_left_as_it_was(dtype: str) -> None:
    net, x = network(), np.random.default_rng(7).standard_normal((2, 1, 6, 6)).astype(np.float32)
    before = net.state_dict()
    values = {name: p.value for name, p in net.parameters().items()}
    report = cc.gradcheck(net, x, dtype=dtype)
    assert report.ok, str(report)
    assert [a.name for a in report.arguments] == ["x", *values]
    assert all(a.verdict == "ok" for a in report.arguments)
    assert all(p.value is values[name] and p.grad is None for name, p in net.parameters().items())
    assert all(np.array_equal(a, before[name]) for name, a in net.state_dict().items())  # the dropout key too


def test_a_wrong_parameter_gradient_in_a_network_is_named() -> None:
    class Forgetful(Linear):
        def apply(self, x: Any) -> tuple[Any, Any]:
            y, ctx = super().apply(x)
            return y, OpContext(ctx.call, {"w": self.weight})  # the bias gets no gradient

    net = cc.Sequential(Flatten(), Forgetful(5, 3, seed=0))
    report = cc.gradcheck(net, np.random.default_rng(8).standard_normal((2, 5)))
    assert [a.verdict for a in report.arguments] == ["ok", "ok", "wrong"]
    assert report.problems == ["backward gave None for 1.bias, but y depends on it"]


def test_a_frozen_network_is_checked_in_x_alone() -> None:
    report = cc.gradcheck(network().freeze(), np.random.default_rng(9).standard_normal((2, 1, 6, 6)))
    assert report.ok
    assert {a.name: a.verdict for a in report.arguments}.pop("x") == "ok"
    assert all(a.verdict == "constant" for a in report.arguments[1:])


# --- the report, the command, the example ------------------------------------------------------------------------


def test_a_plot_of_nothing_says_so() -> None:
    report = cc.gradcheck(cc.ops.relu, np.zeros((0, 2)))
    with pytest.raises(CnncoreError, match="nothing to plot"):
        report.plot()


def test_the_command(capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    options = ["--backend", "numpy", "--seeds", "2"]
    assert main(["gradcheck", "relu", "sgd_step", *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"]
    assert [r["subject"] for r in found["reports"]] == ["relu", "relu", "sgd_step", "sgd_step"]
    assert main(["gradcheck", "relu", *options]) == 0
    assert "gradcheck relu: numpy, float64: ok" in capsys.readouterr().out
    assert main(["gradcheck", "nope", *options]) == 1
    assert "no op is called 'nope'" in capsys.readouterr().err
    assert main(["gradcheck", "relu", "--seeds", "0"]) == 1

    relu = registry["relu"]
    wrong = dataclasses.replace(relu, backward=lambda *args: (1.001 * relu.backward(*args)[0],))
    monkeypatch.setitem(records._registry, "relu", wrong)
    pytest.importorskip("matplotlib")
    assert main(["gradcheck", "relu", *options, "--plot", str(tmp_path / "relu.png")]) == 1
    assert "WRONG in 2" in capsys.readouterr().out
    assert (tmp_path / "relu.png").stat().st_size > 1000


def test_the_example_names_the_forgotten_factor(capsys: Any) -> None:
    path = Path(__file__).parent.parent / "examples" / "gradcheck_your_own.py"
    assert len(path.read_text().splitlines()) < 20
    runpy.run_path(str(path))
    text = capsys.readouterr().out
    assert "WRONG" in text
    assert "w[0, 0]: backward 0.0106476, derivative 0.0212951" in text
