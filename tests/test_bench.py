"""The benchmark: every op has a problem, wrong kernels are caught before timing, figures follow from the cost."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import cnncore as cc
import cnncore.bench.problems
from cnncore import bench
from cnncore.backends import native
from cnncore.bench.measure import timed
from cnncore.bench.problems import Problem, layers
from cnncore.ops import registry

PEAKS = bench.Peaks(fma=200.0, copy=40.0, source="c")


def tiny(op) -> list[Problem]:
    """The op's problems with SHAPE made small, but for those with shapes of their own."""
    return [p for p in bench.problems_of(op) if p.op.name not in ("conv", "linear", "softmax_cross_entropy")]


@pytest.fixture(autouse=True)
def _small(monkeypatch) -> None:
    monkeypatch.setattr(cnncore.bench.problems, "SHAPE", (3, 4, 6, 6))


@pytest.mark.parametrize("name", registry)
def test_every_registered_op_has_a_problem_that_runs(name) -> None:
    """A new op is benchmarked because it is registered."""
    problems = bench.problems_of(registry[name])
    assert problems
    for problem in tiny(registry[name]):
        rows = list(bench.rows([problem], "numpy", PEAKS, 0.0))
        directions = ["forward"] if registry[name].backward is None else ["forward", "backward"]
        assert [r.direction for r in rows if r.format == "contiguous"] == directions
        assert all(0 < r.ms <= r.median_ms and r.percent > 0 for r in rows)


def test_layers_are_those_of_the_target_table() -> None:
    found = {p.name: p for p in bench.problems_of(registry["conv"])}
    names = "alex1 alex2 alex3 alex4 mnist1 mnist2 nin1 cccp1 nin2 nin3 vgg56 vgg28 vgg14 zf1 zf2"
    assert " ".join(found) == names
    x, w, b = found["alex2"].make(np.random.default_rng(0))
    assert (x.shape, w.shape, b.shape) == ((16, 96, 27, 27), (256, 48, 5, 5), (256,))
    assert found["alex2"].attrs == {"stride": 1, "padding": 2, "groups": 2}
    assert x.dtype == w.dtype == b.dtype == np.float32


@pytest.mark.parametrize("line", ["a 1 2 3", "a 1 1 1 8 3 1 1 x", "a 1 1 1 8 3 1 1 -1", "a 1 1 1 8 3 1 1 1 1"])
def test_a_bad_layer_line_is_named(tmp_path, line) -> None:
    (tmp_path / "bad.txt").write_text(f"# comment\n\nok 1 1 1 8 3 1 1 1  # fine\n{line}\n")
    with pytest.raises(cc.FormatError, match=r"bad\.txt: line 4: expected name N C K"):
        layers(tmp_path / "bad.txt")


@pytest.mark.parametrize("name", ["max_pool", "relu", "adam_step", "dropout", "add"])
def test_a_wrong_forward_is_caught(name, monkeypatch) -> None:
    op = registry[name]

    def wrong(p, *arrays):
        y, *rest = op.forward(p, *arrays)
        if y.dtype == np.float32:  # the kernel under test; the definition is asked in float64
            y = y.copy()
            y.flat[-1] += 0.01 * np.abs(y).max()
        return (y, *rest)

    problem = replace(bench.problems_of(op)[0], op=replace(op, forward=wrong))
    with pytest.raises(cc.CnncoreError, match=rf"bench: {name} .*output .* differs from the definition"):
        list(bench.rows([problem], "numpy", PEAKS, 0.0))


@pytest.mark.parametrize("name", ["avg_pool", "relu", "softmax"])
def test_a_wrong_backward_is_caught(name) -> None:
    op = registry[name]

    def wrong(p, needs, dy, *saved):
        (dx,) = op.backward(p, needs, dy, *saved)
        return (np.full_like(dx, np.nan) if dy.dtype == np.float32 else dx,)

    problem = replace(bench.problems_of(op)[0], op=replace(op, backward=wrong))
    with pytest.raises(cc.CnncoreError, match="gradient of x differs from the definition"):
        list(bench.rows([problem], "numpy", PEAKS, 0.0))


def test_rates_and_percents_follow_from_the_cost() -> None:
    op = registry["conv"]
    x, w = np.ones((2, 3, 9, 9), np.float32), np.ones((4, 3, 3, 3), np.float32)
    problem = Problem(op, "small", lambda rng: (x, w, None), {})
    forward, backward = bench.rows([problem], "numpy", PEAKS, 0.0, ["contiguous"])
    flops, size = 2 * (2 * 4 * 7 * 7) * 27, 4 * (x.size + w.size + 2 * 4 * 7 * 7)
    assert forward.gflops == pytest.approx(flops / forward.ms / 1e6)
    assert forward.gbs == pytest.approx(size / forward.ms / 1e6)
    assert backward.gflops == pytest.approx(2 * flops / backward.ms / 1e6)
    assert flops > 4 * size  # so multiply-adds are the limit
    assert (forward.limit, forward.percent) == ("fma", pytest.approx(100 * forward.gflops / 200))
    (relu, _) = bench.rows([Problem(registry["relu"], "r", lambda rng: (x,), {})], "numpy", PEAKS, 0.0, ["contiguous"])
    assert (relu.limit, relu.percent) == ("copy", pytest.approx(100 * relu.gbs / 40))


def test_earlier_versions_compute_the_same() -> None:
    """Groups, stride, dilation and padding, in both formats; `rows` compares with the definition."""
    rng = np.random.default_rng(0)
    arrays = tuple(rng.standard_normal(s, np.float32) for s in ((2, 4, 9, 11), (10, 2, 3, 2), (10,)))
    attrs = {"stride": (2, 1), "padding": ((1, 0), (2, 1)), "dilation": (1, 2), "groups": 2}
    chosen = bench.versions(Problem(registry["conv"], "small", lambda rng: arrays, attrs))
    found = {(r.op, r.format) for r in bench.rows(chosen, "c", PEAKS, 0.0)}
    assert found == {(p.op.name, layout) for p in chosen for layout in bench.FORMATS} and len(chosen) == 4


def test_formats_reach_the_kernel() -> None:
    """Contiguous and channels-last rows get arrays with those strides, dy included."""
    op, seen = registry["relu"], []

    def forward(p, x):
        seen.append(("x", x.dtype, x.flags.c_contiguous, np.moveaxis(x, 1, -1).flags.c_contiguous))
        return op.forward(p, x)

    def backward(p, needs, dy, y):
        seen.append(("dy", dy.dtype, dy.flags.c_contiguous, np.moveaxis(dy, 1, -1).flags.c_contiguous))
        return op.backward(p, needs, dy, y)

    problem = replace(bench.problems_of(op)[0], op=replace(op, forward=forward, backward=backward))
    list(bench.rows([problem], "numpy", PEAKS, 0.0))
    f32 = np.dtype(np.float32)
    assert {s for s in seen if s[1] == f32} == {
        ("x", f32, True, False), ("dy", f32, True, False), ("x", f32, False, True), ("dy", f32, False, True)
    }  # fmt: skip


def test_timed_takes_the_best_after_a_warm_up(monkeypatch) -> None:
    clock = iter([0, 5, 5, 8, 8, 9, 9, 13])  # calls of 5 (warm-up), 3, 1 and 4 seconds
    monkeypatch.setattr("cnncore.bench.measure.time.perf_counter", lambda: next(clock))
    result = timed(lambda: None, 6)
    assert (result.best, result.median) == (1, 3)


def test_peaks_are_positive_and_say_how_they_were_found() -> None:
    peak = bench.peaks(0.01)
    assert peak.fma > 0 and peak.copy > 0 and peak.source in ("c", "numpy")


@pytest.mark.skipif(shutil.which("objdump") is None, reason="binutils are not installed")
@pytest.mark.parametrize("isa", [isa for isa in native.compiled() if isa != "baseline"])
def test_the_peak_loop_has_all_its_multiply_adds(isa: str) -> None:
    """A compiler that knew its numbers left out the chain whose number does not change: the peak was 12 / 11 of it."""
    module = importlib.util.find_spec(f"cnncore._native_{isa}").origin
    code = subprocess.run(["objdump", "-d", "--no-show-raw-insn", module], capture_output=True, text=True, check=True)
    for kind in ("f32", "f64"):
        bodies = [part for part in code.stdout.split("\n\n") if f"<cc_peak_fma_{kind}" in part.partition("\n")[0]]
        assert sum(body.count("vfmadd") for body in bodies) == 12


def test_peaks_are_measured_on_the_threads_that_kernels_use():
    """In a fresh process, where no op has run yet: the C variable must have been set, not still be its initial 1."""
    code = (
        "from cnncore.bench import measure; from cnncore.backends import native; "
        "measure.peaks(0.01); print(native.loaded().lib.cc_get_threads())"
    )
    env = {**os.environ, "CNNCORE_NUM_THREADS": "3"}
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "3"
