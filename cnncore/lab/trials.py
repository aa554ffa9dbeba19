"""Many trainings on the embedded digits: side by side in processes, and each kept as soon as it is finished.

A trial is decided by its settings alone. Its record stands in a file named by a digest of them, so a run that was
killed goes on where it was, and changed settings never meet an old record.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__, data
from ..backends import native
from ..backends.select import use_backend
from ..checkpoint import write_atomically
from ..errors import CnncoreError, DivergenceError
from ..layers import Layer
from ..optim import SGD, CosineLR
from ..progress import Progress
from ..train import Trainer, accuracy, predict

Build = Callable[..., Layer]  # (seed=..., **the trial's net): a function that another process can import
Record = dict[str, Any]


@dataclass(frozen=True)
class Training:
    """How a network is trained: SGD with momentum 0.9, the rate falling to 0 along half a cosine."""

    images: int  # the first so many training digits
    tests: int  # the first so many test digits
    epochs: int
    batch_size: int = 32
    lr: float = 0.03
    weight_decay: float = 5e-4  # of weights, not of biases


@dataclass(frozen=True)
class Trial:
    """One training: what decides its outcome."""

    net: tuple[tuple[str, Any], ...]  # arguments of the Build, by name
    seed: int  # of first weights, order, dropout and draws
    training: Training
    backend: str

    def __str__(self) -> str:
        return " ".join([*(f"{name}={value}" for name, value in self.net), f"seed={self.seed}"])


def run(build: Build, trials: Sequence[Trial], run_dir: Path, workers: int, quiet: bool) -> dict[Trial, Record]:
    """The record of every trial: read where it is finished, trained in `workers` processes of one thread elsewhere.

    A record holds settings, history (the Trainer's), diverged (whether the loss became infinite), train_error (after
    training, in evaluation mode), wrong (the indices of the test digits that it gets wrong) and seconds.
    """
    folder = run_dir / "records"
    folder.mkdir(parents=True, exist_ok=True)
    paths = {trial: folder / f"{_digest(settings(build, trial))}.json" for trial in trials}
    records = {trial: record for trial, path in paths.items() if (record := _read(path)) is not None}
    waiting = [trial for trial in paths if trial not in records]
    progress = Progress(len(records) + len(waiting), len(records), quiet)
    with progress, contextlib.closing(_trained(build, waiting, workers)) as finished:
        progress.line(f"{len(waiting)} trainings to do, {len(records)} found in {folder}")
        for trial, record in finished:
            write_atomically(paths[trial], json.dumps(record).encode())
            records[trial] = record
            progress.advance(1, str(trial))
            errors = 100 * len(record["wrong"]) / trial.training.tests
            progress.line(f"{trial}: {errors:.2f} % errors, {record['seconds']:.1f} s")
    return records


def settings(build: Build, trial: Trial) -> dict[str, Any]:
    """All that decides a trial's outcome, as JSON gives it back; the network with its layers' own settings."""
    about = {
        **asdict(trial),
        "net": dict(trial.net),
        "layers": repr(build(seed=trial.seed, **dict(trial.net))),
        "isa": native.current_isa() if trial.backend == "c" else None,
        "version": __version__,
        "numpy": np.__version__,
    }
    return dict(json.loads(json.dumps(about)))


def train(build: Build, trial: Trial) -> Record:
    """Train one network. One that diverges is a result too: it answers at random from then on."""
    chosen = trial.training
    (x, y), (test_x, test_y) = _digits()
    x, y, test_x, test_y = x[: chosen.images], y[: chosen.images], test_x[: chosen.tests], test_y[: chosen.tests]
    with use_backend(trial.backend):
        net = build(seed=trial.seed, **dict(trial.net))
        optimizer = SGD(net, lr=chosen.lr, momentum=0.9, weight_decay={"*.bias": 0.0, "*": chosen.weight_decay})
        trainer = Trainer(net, optimizer, CosineLR(chosen.epochs), seed=trial.seed, quiet=True)
        with contextlib.suppress(DivergenceError):
            trainer.fit((x, y), (test_x, test_y), epochs=chosen.epochs, batch_size=chosen.batch_size)
        history = trainer.history
        wrong = np.flatnonzero(predict(net, test_x).argmax(axis=1) != test_y)
        train_error = 1 - accuracy(net, x, y)
    lost = {"test_accuracy": 1 - len(wrong) / len(test_y), "seconds": 0.0}
    diverged = len(history) < chosen.epochs
    history = history + [lost] * (chosen.epochs - len(history))
    return {
        "settings": settings(build, trial),
        "history": history,
        "diverged": diverged,
        "train_error": train_error,
        "wrong": wrong.tolist(),
        "seconds": sum(epoch["seconds"] for epoch in history),
    }


_digits = functools.cache(data.mnist10k)


def _digest(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:20]


def _read(path: Path) -> Record | None:
    """The record in a file, or None: there is none, or somebody's hand has been in it."""
    try:
        record = json.loads(path.read_bytes())
        return record if _digest(record["settings"]) == path.stem else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _trained(build: Build, trials: Sequence[Trial], workers: int) -> Generator[tuple[Trial, Record], None, None]:
    """Trials and records as they are finished. Whatever ends it early ends the processes too."""
    if not trials:
        return
    spawned = multiprocessing.get_context("spawn")  # a fork would copy threads' locks
    with ProcessPoolExecutor(min(workers, len(trials)), spawned, initializer=_start_worker) as pool:
        others = set(multiprocessing.active_children())
        try:
            with _ctrl_c_waits():
                futures = {pool.submit(train, build, trial): trial for trial in trials}
            for future in as_completed(futures):
                yield futures[future], _result(future, futures[future])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise


def _result(future: Future[Record], trial: Trial) -> Record:
    try:
        return future.result()
    except CnncoreError as error:
        raise type(error)(f"{trial}: {error}") from None


@contextlib.contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Hold back Ctrl-C. Processes started inside the block never get it: this one ends them, and says so once."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    """One thread for the kernels, and an end with the parent's end, however it comes."""
    if native.supported():
        native.set_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
