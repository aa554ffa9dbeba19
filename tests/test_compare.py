"""bench/compare.py: what its tables say, its goals and floors, and (with PyTorch) that both sides compute the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnncore as cc
from cnncore.backends import select
from cnncore.ops.op import run

BENCH = Path(__file__).parent.parent / "bench"
sys.path.insert(0, str(BENCH))
import floors  # noqa: E402
import goals  # noqa: E402
import points  # noqa: E402
import report  # noqa: E402
import report_curves  # noqa: E402
import turns  # noqa: E402

MACHINE = {
    "cpu": "made up", "threads": 2, "fma_gflops": 200.0, "copy_gbs": 40.0, "torch": "2.13.0", "seconds": 0.3,
    "cnncore": {"version": "0.1.0", "isa": "avx2", "compiler": "gcc"},
}  # fmt: skip
needs_c = pytest.mark.skipif(select.why_not("c") is not None, reason="the C kernels are not built")


def row(section: str, op: str, problem: str, direction: str, best: dict[str, float], **more: Any) -> dict[str, Any]:
    error = {name: 2e-07 for name in best if not name.startswith("floor")}
    plain = {"error": error, "samples": 0, "copy": 41.4, "memory": {}, "point": {}}
    return {"section": section, "op": op, "problem": problem, "direction": direction, "best": best, **plain, **more}


def told(section: str, *rows: dict[str, Any]) -> list[str]:
    return report.table(section, {"machine": MACHINE, "rows": list(rows)}).splitlines()


# --- tables ---


def test_each_side_counts_with_its_better_format() -> None:
    best = {
        "cnncore contiguous": 4.0,
        "cnncore channels_last": 2.0,
        "torch contiguous": 3.0,
        "torch channels_last": 5.0,
        "floor forward fma": 1.0,
        "floor forward pass stored": 0.5,
    }
    alone = {"cnncore contiguous": 2.0, "floor forward fma": 1.0}
    lines = told("conv", row("conv", "conv", "alex1", "forward", best), row("conv", "conv", "x", "both", alone))
    assert "| conv | alex1 | forward | 2 | 3 | 1.50 | 1 met | 1 | 50 % fma | 41 | 2.0e-07 | 2.0e-07 |" in lines
    assert "| conv | x | both | 2 |  |  |  | 1 | 50 % fma | 41 | 2.0e-07 |  |" in lines  # PyTorch has no such op
    assert "Geometric mean of the ratios: forward 1.50." in lines and "Stated ratios met: forward 1 of 1." in lines


def test_the_limit_is_the_largest_floor_each_at_its_better_form() -> None:
    best = {"floor forward pass stored": 3.0, "floor forward pass streamed": 2.0, "floor forward exp": 1.0}
    assert report.limit(row("ops", "tanh", "x", "forward", best)) == (2.0, "pass")
    best |= {"floor forward exp": 2.5}
    assert report.limit(row("ops", "tanh", "x", "forward", best)) == (2.5, "exp")
    best |= {"floor backward pass stored": 1.0, "floor backward fma": 0.5}
    assert report.limit(row("ops", "tanh", "x", "both", best)) == (3.5, "exp, pass")


def test_a_missed_goal_is_told_with_the_ratio_to_the_form_that_the_goal_was_set_with() -> None:
    best = {
        "cnncore channels_last": 2.0,
        "torch channels_last": 8.0,
        "torch adaptive_max_pool2d channels_last": 3.0,
        "floor forward pass stored": 1.0,
    }
    lines = told("ops", row("ops", "global_max_pool", "64x96x32x32", "both", best))
    assert any("| 1.50 | **3 missed** (4.00 as stated) | 1 | **50 %** pass |" in line for line in lines)
    assert "Missed: global_max_pool 64x96x32x32 both." in lines
    assert "At 70 % of the limit or more: both 0 of 1." in lines


def test_networks_are_told_in_images_a_second_with_their_memory() -> None:
    best = {"cnncore contiguous": 50.0, "torch contiguous": 100.0}
    memory = {"cnncore": 30.0, "torch": 40.0}
    train = row("nets", "LeNet", "128x1x28x28", "train", best, samples=128, memory=memory)
    lines = told("nets", train, row("nets", "LeNet", "128x1x28x28", "infer", best, samples=128))
    assert "| LeNet | 128x1x28x28 | train | 2560 | 1280 | 2.00 | 2 met | 30 | 40 | 0.75 |" in lines
    assert "| LeNet | 128x1x28x28 | infer | 2560 | 1280 | 2.00 |  |  |  |  |" in lines
    assert "Memory, goal 1 or less: met by 1 of 1." in lines


def test_what_failed_stands_in_the_table() -> None:
    result = {"machine": MACHINE, "rows": [], "failed": {"lrn 5": "Wrong: lrn differs"}}
    assert "Failed: lrn 5: Wrong: lrn differs" in report.table("ops", result)


# --- goals ---


def test_goals_are_those_of_the_targets() -> None:
    best = {"cnncore contiguous": 1.0, "torch contiguous": 1.0}
    stated = {op: goals.ratio_goal(row("ops", op, label, "both", best)) for op, label, *_ in goals.OPS}
    assert stated["lrn"] == 30 and stated["relu"] == 1 and all(stated.values())
    assert goals.ratio_goal(row("ops", "lrn", "5", "forward", best)) is None
    assert goals.ratio_goal(row("conv", "conv", "vgg14", "both", best)) == 1.5
    assert goals.ratio_goal(row("conv", "conv", "alex1", "both", best)) is None  # the mean of all counts


def test_layers_of_3x3_windows_and_stride_1_are_all_named() -> None:
    found = set()
    for problem in cc.bench.problems_of(cc.ops.registry["conv"]):
        kernel = problem.make(np.random.default_rng(0))[1].shape[2]
        found |= {problem.name} if (kernel, problem.attrs["stride"]) == (3, 1) else set()
    assert found == goals.THREES


# --- cost curves ---


def test_points_reach_the_ends_of_every_axis_and_none_comes_twice() -> None:
    found = points.points()
    for axis, ends in {"batch": (1, 256), "channels": (3, 512), "image": (8, 224)}.items():
        values = [point[axis] for point in found if all(point[n] == points.BASE[n] for n in points.BASE if n != axis)]
        assert (min(values), max(values)) == ends and len(set(values)) == len(values)
    assert points.BASE in found and len(found) == len({tuple(point.values()) for point in found})


@pytest.mark.parametrize("op", points.OPS)
def test_a_point_is_the_problem_it_says(op: str) -> None:
    problem = points.problem_at(op, {"batch": 2, "channels": 3, "image": 8})
    arrays = problem.make(np.random.default_rng(0))
    y = run(problem.op, arrays, problem.attrs, "numpy")[0]
    assert arrays[0].shape == (2, 3, 8, 8) and y.shape == {"conv": (2, 64, 8, 8), "max_pool": (2, 3, 3, 3)}[op]


def curve_rows() -> list[dict[str, Any]]:
    found = []
    for point in points.points():
        for threads in points.THREADS:
            ms = float(np.prod(list(point.values()))) / threads
            best = {"cnncore contiguous": ms, "torch contiguous": 2 * ms, "floor forward pass stored": ms / 2}
            name = "x".join(map(str, point.values()))
            more = {"point": {**point, "threads": threads}}
            found.append(row("curves", "conv", name, "forward", best, **more))
    return found


def test_a_curve_is_what_differs_in_its_axis_alone() -> None:
    images = report_curves.curve(curve_rows(), "image", 2, "torch")
    others = points.BASE["batch"] * points.BASE["channels"]
    assert images == [(size, float(others * size)) for size in points.AXES["image"]]
    assert report_curves.curve(curve_rows(), "image", 1, "floor")[0] == (8, others * 8 / 2)


def test_cost_curves_as_a_table_and_a_picture(tmp_path: Path) -> None:
    result = {"machine": MACHINE, "rows": curve_rows()}
    text = report_curves.curves_table(result)
    base = "x".join(map(str, points.BASE.values()))
    assert text.count(f"\n| {base} |") == 1
    assert "\n| 1x64x32 | 2.05e+03 | 4.1e+03 | 2.00 | 1.02e+03 | 2.05e+03 | 2.00 |" in text
    pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")
    for name in ("a.png", "b.png"):
        report_curves.draw(result, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


# --- turns, floors, memory ---


def test_sides_take_turns_and_have_as_many_calls_each() -> None:
    order: list[str] = []
    times = turns.take_turns({name: lambda name=name: order.append(name) for name in "abc"}, 0.0)
    assert "".join(order) == "abc" * 4  # one round warms up
    assert [len(t) for t in times.values()] == [3, 3, 3]


@needs_c
def test_floors_are_made_of_what_the_op_cannot_do_without() -> None:
    arrays = (np.ones((2, 4, 8, 8), np.float32),)
    problem = cc.bench.Problem(cc.ops.registry["tanh"], "small", lambda rng: arrays)
    works = floors.work_of(problem, arrays, run(problem.op, arrays, {}, "c")[1])
    assert works == {
        "forward": floors.Work(2048, 2048, 512, {"exp": 512}),
        "backward": floors.Work(4096, 2048, 512),  # dy and y; dx
    }
    calls = floors.floors(works | {"large": floors.Work(64, floors.STREAMED)})
    for call in calls.values():
        call()
    assert {"floor forward pass stored", "floor forward exp", "floor large pass streamed"} <= set(calls)
    assert not {"floor forward pass streamed", "floor backward exp"} & set(calls)


@needs_c
def test_peak_memory_holds_at_least_parameters_gradients_and_momentum() -> None:
    import memory
    import networks

    parameters = sum(p.value.nbytes for p in networks.NETWORKS["LeNet"][0]().parameters().values())
    found = memory.peak_memory("cnncore", "LeNet", "channels_last")
    assert 3 * parameters / 2**20 < found < 1000


# --- all of it ---


def compare(*words: str) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("torch", reason="the extra `bench` is not installed")
    command = [sys.executable, str(BENCH / "compare.py"), *words, "--seconds", "0.001"]
    return subprocess.run(command, capture_output=True, text=True)


@needs_c
def test_both_sides_compute_the_same() -> None:
    done = compare("conv", "ops", "--only", "mnist1")
    assert done.returncode == 0 and "| conv | mnist1 | both |" in done.stdout, done.stderr


@needs_c
def test_a_failure_is_told_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="the extra `bench` is not installed")
    import compare as script

    def wrong():
        raise turns.Wrong("made up")

    some = {
        "bad": wrong,
        "good": lambda: iter([script.Row("ops", "relu", "x", "forward", {"cnncore contiguous": 1.0})]),
    }
    monkeypatch.setattr(script, "work_of", lambda section, seconds: some)
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    monkeypatch.setattr(script.bench, "peaks", lambda: cc.bench.Peaks(200.0, 40.0, "c"))
    assert script.run(["ops"], "", 0.0) == {"ops: bad": "Wrong: made up"}
    saved = json.loads((tmp_path / "ops.json").read_text())
    assert saved["failed"] == {"bad": "Wrong: made up"} and saved["rows"][0]["op"] == "relu"
    assert "| relu | x | forward | 1 |" in (tmp_path / "README.md").read_text()


# --- instruction sets ---


def test_isas_table_names_the_worst_and_marks_what_is_beyond_the_goal() -> None:
    pytest.importorskip("torch")
    import isas

    rows = [
        {"name": "conv alex1", "direction": "forward", "avx512": 10.0, "avx2": 10.0, "ratio": 1.0},
        {"name": "tanh", "direction": "forward", "avx512": 1.0, "avx2": 1.44, "ratio": 1.44},
    ]
    text = isas.table(rows, {"cpu": "made up", "threads": 2}, 0.2)
    assert "1.20 times as long on average (geometric mean), at most 1.44 times (tanh,\nforward)" in text
    assert "within 1.3 times: 1 of 2." in text
    assert "| tanh | forward | 1 | 1.44 | **1.44** |" in text
