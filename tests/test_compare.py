"""bench/compare.py: what its table says, and (where PyTorch is installed) that both sides compute the same."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "bench"
table = runpy.run_path(str(BENCH / "report.py"))["table"]
MACHINE = {
    "cpu": "made up", "threads": 2, "fma_gflops": 200.0, "copy_gbs": 40.0, "torch": "2.13.0",
    "cnncore": {"version": "0.1.0", "isa": "avx2", "compiler": "gcc"},
}  # fmt: skip


def row(direction: str, limit: float, best: dict[str, float], samples: int = 0) -> dict:
    error = dict.fromkeys(best, 2e-07)
    return {
        "op": "conv", "problem": "alex1", "direction": direction, "unit": "fma", "limit_ms": limit, "best": best,
        "error": error, "samples": samples,
    }  # fmt: skip


def test_each_side_counts_with_its_better_format() -> None:
    best = {
        "cnncore contiguous": 4.0,
        "cnncore channels_last": 2.0,
        "torch contiguous": 3.0,
        "torch channels_last": 5.0,
    }
    rows = [row("forward", 1.0, best), row("forward", 1.0, {"cnncore contiguous": 2.0})]
    lines = table("conv", {"machine": MACHINE, "rows": rows}).splitlines()
    assert "| conv | alex1 | forward | 2 | 3 | 1.50 | 50 % fma | 2.0e-07 | 2.0e-07 |" in lines
    assert "| conv | alex1 | forward | 2 |  |  | 50 % fma | 2.0e-07 |  |" in lines  # PyTorch has no such op
    assert lines[-1] == "Geometric mean of the ratios: forward 1.50."


def test_networks_are_told_in_images_a_second() -> None:
    rows = [row("train", 0, {"cnncore contiguous": 50.0, "torch contiguous": 100.0}, samples=128)]
    lines = table("nets", {"machine": MACHINE, "rows": rows}).splitlines()
    assert "| conv | alex1 | train | 2560 | 1280 | 2.00 |" in lines


def test_both_sides_compute_the_same(monkeypatch, capsys) -> None:
    pytest.importorskip("torch", reason="the extra `bench` is not installed")
    monkeypatch.syspath_prepend(str(BENCH))
    monkeypatch.setattr(sys, "argv", ["compare.py", "conv", "ops", "--only", "mnist1", "--seconds", "0.01"])
    with pytest.raises(SystemExit) as done:
        runpy.run_path(str(BENCH / "compare.py"), run_name="__main__")
    assert not done.value.code and "| conv | mnist1 | both |" in capsys.readouterr().out
