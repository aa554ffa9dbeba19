"""The lab: what is kept of a run, who trains, what may be concluded; the pooling experiment on a handful of digits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cnncore as cc
from cnncore import plots
from cnncore.cli import main
from cnncore.cli.common import chosen_backend
from cnncore.lab import pooling, statistics, trials
from cnncore.lab.pooling_claims import GROUPS, Claim, Group
from cnncore.lab.pooling_nets import Scaled, build, regime
from cnncore.lab.statistics import Estimate, estimate, verdict
from cnncore.lab.trials import Training, Trial

TINY = Training(images=48, tests=40, epochs=2, batch_size=16, lr=0.01)
WORDS = ["lab", "pooling", "--only", "stages", "--run-dir", "r"]


@pytest.fixture(autouse=True)
def _tiny(monkeypatch, tmp_path: Path) -> None:
    """A handful of digits, and no file left outside tmp_path."""
    monkeypatch.setattr(pooling, "TRAINING", {False: TINY, True: TINY})
    monkeypatch.chdir(tmp_path)


# --- the experiment, through the command line ---


def test_pooling_saves_what_it_prints(capsys, tmp_path: Path) -> None:
    assert main([*WORDS, "--seeds", "2", "--seed", "5"]) == 0
    text = capsys.readouterr().out
    result = json.loads((tmp_path / "r" / "result.json").read_text())
    group = result["groups"]["stages"]
    assert [row["net"] for row in group["rows"]] == list(GROUPS["stages"].nets)
    for row in group["rows"]:
        assert row["net"] in text and f"{np.mean(row['test_error']):.2f} ±" in text
        assert len(row["test_error"]) == len(row["seconds"]) == 2 and np.shape(row["curve"]) == (2, TINY.epochs)
        assert row["test_error"] == pytest.approx([curve[-1] for curve in row["curve"]], rel=1e-12)
    for claim, found in zip(GROUPS["stages"].claims, group["claims"], strict=True):
        means = {row["net"]: np.mean(row["test_error"]) for row in group["rows"]}
        assert found["mean"] == pytest.approx(sum(w * means[net] for net, w in claim.weights.items()), abs=1e-9)
        assert f"3.4 {claim.text}? " in text and found["verdict"] in text
    assert (result["settings"]["seeds"], result["settings"]["seed"], result["settings"]["quick"]) == (2, 5, False)
    assert result["training"]["epochs"] == TINY.epochs and result["settings"]["backend"] in ("c", "numpy")
    assert len(list((tmp_path / "r" / "records").iterdir())) == 8
    assert bool(result["pictures"]) == (plots.missing() is None)
    for name in result["pictures"]:
        assert (tmp_path / "r" / name).read_bytes().startswith(b"\x89PNG") and name in text


def test_finished_trainings_are_read_again_and_others_are_not(capsys, monkeypatch, tmp_path: Path) -> None:
    def todo(*more: str) -> int:
        assert main([*WORDS, "--seeds", "1", *more]) == 0
        return int(capsys.readouterr().out.split()[0])

    assert todo() == 4
    result = (tmp_path / "r" / "result.json").read_bytes()
    assert todo() == 0
    assert (tmp_path / "r" / "result.json").read_bytes() == result
    first, second, *_ = (tmp_path / "r" / "records").iterdir()
    first.unlink()
    second.write_text(second.read_text()[:-30])
    assert todo() == 2
    assert todo("--seed", "1") == 4
    monkeypatch.setattr(pooling, "TRAINING", {False: Training(48, 40, 2, batch_size=12)})
    assert todo() == 4


def test_json_is_the_saved_result_and_nothing_else(capsys, tmp_path: Path) -> None:
    assert main([*WORDS, "--seeds", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "r" / "result.json").read_text())
    assert all(
        claim["error"] is None and "not shown" in claim["verdict"] for claim in result["groups"]["stages"]["claims"]
    )


def test_quick_results_do_not_replace_full_ones(tmp_path: Path) -> None:
    assert main(["lab", "pooling", "--only", "stages", "--quick", "--seeds", "1", "--json"]) == 0
    assert [p.name for p in (tmp_path / "runs" / "lab").iterdir()] == ["pooling-quick"]


# --- who trains ---


def timeless(record: dict) -> dict:
    history = [
        {k: v for k, v in epoch.items() if k not in ("seconds", "images_per_second")} for epoch in record["history"]
    ]
    return {**record, "history": history, "seconds": 0}


def test_results_do_not_depend_on_the_workers(tmp_path: Path) -> None:
    stochastic, dropout = GROUPS["regimes"].nets["stochastic"], GROUPS["dropout"].nets["lp4, dropout"]
    pairs = ((stochastic, 0), (stochastic, 1), (dropout, 0))
    chosen = [Trial(tuple(net.items()), seed, TINY, chosen_backend()) for net, seed in pairs]
    one = trials.run(build, chosen, tmp_path / "one", workers=1, quiet=True)
    two = trials.run(build, chosen[::-1], tmp_path / "two", workers=2, quiet=True)
    here = {trial: trials.train(build, trial) for trial in chosen[:1]}
    for trial in chosen:
        assert timeless(one[trial]) == timeless(two[trial])
    assert timeless(here[chosen[0]]) == timeless(one[chosen[0]])
    assert one[chosen[0]]["history"] != one[chosen[1]]["history"]


def test_an_error_in_a_worker_arrives_with_its_trial(tmp_path: Path) -> None:
    trial = Trial(tuple(GROUPS["regimes"].nets["max"].items()), 7, replace(TINY, batch_size=0), chosen_backend())
    with pytest.raises(cc.CnncoreError, match=r"pool=max .* seed=7: fit: batch_size"):
        trials.run(build, [trial], tmp_path, workers=1, quiet=True)


def test_a_training_that_diverges_is_a_result() -> None:
    trial = Trial(tuple(GROUPS["regimes"].nets["max"].items()), 7, replace(TINY, lr=1e30), chosen_backend())
    record = trials.train(build, trial)
    assert record["diverged"] and len(record["history"]) == TINY.epochs and record["train_error"] > 0.5
    row = pooling.row([record, record], TINY.tests)
    assert row["curve"] == [[row["test_error"][0]] * TINY.epochs] * 2 and row["test_error"][0] > 50
    assert pooling.network({"net": "max", **row}) == "max (2 diverged)"


LONG = """
from cnncore.cli import main
from cnncore.lab import pooling
from cnncore.lab.trials import Training
pooling.TRAINING = {False: Training(200, 40, epochs=2), True: None}
if __name__ == "__main__":
    raise SystemExit(main(["lab", "pooling", "--run-dir", "r", "--workers", "2"]))
"""


def children(pid: int) -> set[int]:
    return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill"])
def test_a_run_that_is_stopped_leaves_its_records_and_no_process(tmp_path: Path, blow) -> None:
    words = [sys.executable, "-c", LONG]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        process.stdout.readline()  # so many trainings to do
        assert "errors" in process.stdout.readline()  # one is finished and kept
        workers = children(process.pid)
        assert len(workers) >= 2
        process.send_signal(blow)
        status = process.wait(timeout=60)
        if blow == signal.SIGINT:
            assert (status, process.stderr.read()) == (130, "cnncore: interrupted\n")
    until = time.monotonic() + 30
    while any(map(alive, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, workers))
    kept = [json.loads(path.read_text()) for path in (tmp_path / "r" / "records").glob("[0-9a-f]*.json")]
    assert kept and all(len(record["history"]) == 2 for record in kept)


# --- what may be concluded ---


def test_t95_is_students() -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.t.ppf(0.975, np.arange(1, len(statistics.T95) + 1))
    np.testing.assert_allclose(statistics.T95, expected, atol=6e-4)


def test_an_estimate_over_seeds_is_the_t_test() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.array([0.3, 0.5, 0.1, 0.45])
    found, test = estimate(values), stats.ttest_1samp(values, 0)
    assert found.mean == pytest.approx(values.mean()) and found.error == pytest.approx(stats.sem(values))
    low, high = test.confidence_interval(0.95)
    assert found.margin == pytest.approx((high - low) / 2, rel=1e-3)
    assert (verdict(found, "above") == "shown") == (test.pvalue < 0.05)
    for seeds in range(2, 31):  # the degrees of freedom are a quotient that rounding leaves at 2.999..., say
        for number in range(50):
            values = np.random.default_rng(number).normal(size=seeds)
            low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
            assert estimate(values).margin == pytest.approx((high - low) / 2, rel=1e-3)


@pytest.mark.parametrize(("of_seed", "of_image"), [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (0.0, 0.0)])
def test_intervals_hold_the_truth_in_95_of_100_samples(of_seed, of_image) -> None:
    """Seeds and images drawn anew 2,000 times; the truth is 0. Never fewer than 95 % by more than chance."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        values = of_seed * rng.standard_normal((4, 1)) + of_image * rng.standard_normal(30)
        found = estimate(values + rng.standard_normal((4, 30)))
        held += abs(found.mean) <= found.margin
    assert held / 2000 > 0.95 - 3 * (0.95 * 0.05 / 2000) ** 0.5


def test_nothing_follows_from_one_seed_or_from_no_difference() -> None:
    assert estimate(np.array([5.0])) == Estimate(5.0, None, None)
    assert verdict(estimate(np.ones((1, 30))), "above").startswith("not shown")
    assert estimate(np.zeros((3, 30))) == Estimate(0.0, 0.0, 0.0)
    assert verdict(estimate(np.zeros((3, 30))), "above").startswith("not shown")


@pytest.mark.parametrize(
    ("mean", "expected", "said"),
    [
        (0.5, "above", "shown"),
        (0.1, "above", "not shown (within chance)"),
        (-0.5, "above", "the opposite is shown"),
        (0.5, "not above", "contradicted"),
        (0.1, "not above", "not contradicted (more than 0.30 is excluded)"),
        (-0.5, "not above", "shown"),
        (0.5, "zero", "contradicted"),
        (-0.1, "zero", "not contradicted (a distance above 0.30 is excluded)"),
        (-0.5, "zero", "contradicted"),
    ],
)
def test_verdicts(mean, expected, said) -> None:
    assert verdict(Estimate(mean, 0.1, 0.2), expected) == said


# --- from records to rows and claims ---


def record(wrong: list[int], train_error: float, curve: list[float]) -> dict:
    history = [{"test_accuracy": 1 - error} for error in curve]
    return {"wrong": wrong, "train_error": train_error, "history": history, "seconds": 2.0, "diverged": False}


A = [record([0, 1, 2], 0.01, [0.1, 0.03]), record([0, 1], 0.00, [0.05, 0.02])]
B = [record([0], 0.01, [0.02, 0.01]), record([3], 0.01, [0.02, 0.01])]


def test_rows() -> None:
    row = pooling.row(A, tests=100)
    assert row["test_error"] == [3, 2] and row["train_error"] == [1, 0] and row["epochs_to_98"] == [None, 2]
    assert pooling.epochs(row["epochs_to_98"]) == "-" and pooling.epochs([1, 2]) == "1.5"
    assert pooling.spread([3, 2]) == "2.50 ± 0.71" and pooling.spread([3]) == "3.00"


MEANS = {"test error": 1.5, "overfitting": 2.0, "error after one epoch": 5.5}


@pytest.mark.parametrize(("measure", "mean"), MEANS.items())
def test_measures(measure, mean) -> None:
    claim = Claim("2.2", "made up", {"a": 1, "b": -1}, measure)
    group = pooling.summary(Group("made up", {}, (claim,)), {"a": A, "b": B}, tests=100)
    (found,) = group["claims"]
    assert found["mean"] == pytest.approx(mean) and found["quantity"] == f"{measure}: a - b"
    assert pooling.sentence(found).startswith(f"2.2 made up? {measure}: a - b = +{mean:.2f} points, standard error ")


def test_every_claim_can_be_judged() -> None:
    for group in GROUPS.values():
        for claim in group.claims:
            assert set(claim.weights) <= set(group.nets) and sum(claim.weights.values()) == 0
            assert claim.measure in pooling.MEASURES and claim.expected in ("above", "zero", "not above")


# --- the networks ---


@pytest.mark.parametrize("group", GROUPS)
def test_networks_take_digits_and_learn(group) -> None:
    x = np.random.default_rng(0).random((2, 1, 28, 28), dtype=np.float32)
    for net in GROUPS[group].nets.values():
        layers = build(seed=1, **net)
        y, context = layers.apply(x)
        assert y.shape == (2, 10)
        context.backward(np.ones_like(y), dx=False)
        assert all(p.grad is not None for p in layers.parameters().values())


def test_all_regimes_start_from_the_same_weights() -> None:
    first, *others = (build(seed=3, **net).parameters() for net in GROUPS["regimes"].nets.values())
    for parameters in others:
        assert all(np.array_equal(parameters[name].value, p.value) for name, p in first.items())


def test_7_layers_are_7_and_units_have_as_many_weights() -> None:
    sizes = {}
    for depth in (3, 7):
        for unit in ("maxout", "relu, maxout", "relu"):
            parameters = build(network="chain", unit=unit, depth=depth, seed=0).parameters().values()
            filters = [p.value.size for p in parameters if p.value.ndim == 4]
            assert len(filters) == depth
            sizes[unit, depth] = sum(filters)
    assert sizes["maxout", 7] == sizes["relu, maxout", 7] == pytest.approx(sizes["relu", 7], rel=0.05)


def test_scaled_entropy_is_max_squared_over_sum() -> None:
    x = np.random.default_rng(0).random((1, 1, 3, 3)) + 0.1
    layer = regime("entropy", 0)
    assert isinstance(layer, Scaled)
    np.testing.assert_allclose(layer.apply(x)[0], [[[[x.max() ** 2 / x.sum()]]]], rtol=1e-6)
    assert cc.gradcheck(layer, (x,)).ok


@pytest.mark.skipif(plots.missing() is not None, reason="matplotlib is not installed")
def test_comparison_draws_perfect_and_single_results(tmp_path: Path) -> None:
    from matplotlib.image import imread

    plots.comparison(tmp_path / "c.png", "title", [("a", [0.0], [[0.0]]), ("b", [1.0, 2.0], [[3.0, 1.0], [2.0, 2.0]])])
    assert imread(tmp_path / "c.png").std() > 0
