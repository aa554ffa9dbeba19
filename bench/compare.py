"""cnncore against PyTorch on the CPU, in one process and one run: `make bench`, or `python bench/compare.py conv ops`.

Every problem is computed by both, in both memory formats; results are compared with PyTorch's in float64 first. Then
all sides take turns until each had its time, so that whatever else the machine does, and whatever the caches hold, is
the same for all. A side is as good as its better format. Written: bench/results/<section>.json, and a table, README.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import CALLS, network
from report import table

import cnncore as cc
from cnncore import bench, models
from cnncore.backends import native
from cnncore.bench.measure import once
from cnncore.bench.problems import SHAPE, Problem
from cnncore.ops.op import run
from cnncore.progress import Progress

RESULTS = Path(__file__).parent / "results"
FORMATS = ("contiguous", "channels_last")
Calls = dict[str, Callable[[], Any]]


@dataclass
class Row:
    """One problem in one direction: the best and median milliseconds of every side, and what could be at best."""

    section: str
    op: str
    problem: str
    direction: str  # forward, backward, both, train, infer
    unit: str  # what `limit_ms` is of: "fma" (FLOPs at the measured peak), "pass" (its bytes, read and written), ""
    limit_ms: float
    best: dict[str, float] = field(default_factory=dict)  # "cnncore contiguous" -> ms
    median: dict[str, float] = field(default_factory=dict)
    error: dict[str, float] = field(default_factory=dict)  # ||e|| / ||y|| against float64, per side
    samples: int = 0  # in a call: images of a network's batch


def take_turns(calls: Calls, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of every call, in turns, until each had `seconds`; one call of each warms up."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    while len(next(iter(times.values()))) < 3 or min(map(sum, times.values())) < 1e3 * seconds:
        for name, call in calls.items():
            times[name].append(1e3 * once(call))
    return times


def fill(row: Row, calls: Calls, seconds: float) -> Row:
    times = take_turns(calls, seconds)
    row.best = {name: min(t) for name, t in times.items()}
    row.median = {name: float(np.median(t)) for name, t in times.items()}
    return row


# --- arrays in both worlds ---


def formatted(arrays: Any, layout: str) -> tuple[Any, ...]:
    """NumPy arrays with every map of more than one channel and pixel in the format."""
    return tuple(native.dense(a, layout == "channels_last" and a.ndim == 4) for a in arrays)


def tensors(arrays: Any, layout: str, dtype: Any = None) -> list[torch.Tensor]:
    where = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    found = [torch.from_numpy(np.array(a, order="C")) for a in arrays]
    found = [t.to(dtype) if dtype and t.is_floating_point() else t for t in found]
    return [t.contiguous(memory_format=where) if t.ndim == 4 else t for t in found]


def distance(found: Any, right: Any) -> float:
    found, right = np.asarray(found, np.float64), np.asarray(right, np.float64)
    return float(np.linalg.norm(found - right) / max(np.linalg.norm(right), 1e-300))


# --- one op ---


def op_rows(section: str, problem: Problem, peak: bench.Peaks, seconds: float) -> Iterator[Row]:
    """Forward, backward, and one after the other, of one op on all sides."""
    arrays = problem.make(np.random.default_rng(0))
    drawn = tuple(a for a in arrays if isinstance(a, np.ndarray))  # the others are keys: PyTorch has its own
    theirs = CALLS[problem.op.name](**problem.attrs) if problem.op.name in CALLS else None
    ctx = run(problem.op, arrays, problem.attrs, "c")[1]
    dy = np.random.default_rng(1).standard_normal(ctx.shape, np.float32)
    calls: dict[str, Calls] = {"forward": {}, "backward": {}, "both": {}}
    for layout in FORMATS if any(a.ndim == 4 for a in drawn) else FORMATS[:1]:
        name = f"cnncore {layout}"
        calls["forward"][name], calls["backward"][name], calls["both"][name] = our_calls(problem, arrays, dy, layout)
        if theirs:
            name = f"torch {layout}"
            given, dy_t = tensors(drawn, layout), tensors((dy,), layout)[0]
            calls["forward"][name], calls["backward"][name], calls["both"][name] = their_calls(theirs, given, dy_t)
    exact = their_exact(theirs, drawn, dy) if theirs and len(drawn) == len(arrays) else {}
    costs = dict(zip(("forward", "backward"), problem.op.cost(ctx.spec, arrays, np.float32), strict=True))
    read = sum(a.nbytes for a in drawn)
    written = sum(a.nbytes for a, d in zip(arrays, problem.op.differentiable(arrays), strict=True) if d)
    for direction in ("forward", "backward", "both") if problem.op.backward is not None else ("forward",):
        parts = [costs[part] for part in costs if direction in (part, "both")]
        passes = {
            "forward": (read, costs["forward"].bytes - read),
            "backward": (costs["backward"].bytes - written, written),
        }
        unit, limit = floor(parts, [passes[part] for part in costs if direction in (part, "both")], peak)
        row = Row(section, problem.op.name, problem.name, direction, unit, limit)
        if direction in exact:
            row.error = {name: distance(first(call()), exact[direction]) for name, call in calls[direction].items()}
            check(row)
        yield fill(row, calls[direction], seconds)


def our_calls(problem: Problem, arrays: Any, dy: np.ndarray, layout: str) -> tuple[Callable[[], Any], ...]:
    own = tuple(formatted((a,), layout)[0] if isinstance(a, np.ndarray) else a for a in arrays)
    gradient = formatted((dy,), layout)[0]
    _, ctx = run(problem.op, own, problem.attrs, "c")
    return (
        lambda: run(problem.op, own, problem.attrs, "c")[0],
        lambda: ctx.backward(gradient),
        lambda: run(problem.op, own, problem.attrs, "c")[1].backward(gradient),
    )


def their_calls(
    theirs: Callable[..., torch.Tensor], given: list[torch.Tensor], dy: torch.Tensor
) -> tuple[Callable[[], Any], ...]:
    def forward() -> torch.Tensor:
        with torch.no_grad():
            return theirs(*given)

    learning = [t.clone().requires_grad_(True) if t.is_floating_point() else t for t in given]
    floats = [t for t in learning if t.requires_grad]
    y = theirs(*learning)
    return (
        forward,
        lambda: torch.autograd.grad(y, floats, dy, retain_graph=True),
        lambda: torch.autograd.grad(theirs(*learning), floats, dy),
    )


def their_exact(theirs: Callable[..., torch.Tensor], drawn: Any, dy: np.ndarray) -> dict[str, np.ndarray]:
    """y, and the gradient of the first argument, in float64."""
    given = tensors(drawn, "contiguous", torch.float64)
    forward, backward, _ = their_calls(theirs, given, torch.from_numpy(dy).double())
    return {"forward": forward().numpy(), "backward": first(backward())}


def first(found: Any) -> np.ndarray:
    found = found[0] if isinstance(found, tuple) else found
    return found.detach().numpy() if isinstance(found, torch.Tensor) else found


def check(row: Row) -> None:
    """Raise where a side computes something else."""
    for name, error in row.error.items():
        if not error < 1e-3:
            raise SystemExit(f"{row.op} {row.problem} {row.direction}: {name} differs from float64 by {error:.2g}")


def floor(costs: Any, passes: list[tuple[int, int]], peak: bench.Peaks) -> tuple[str, float]:
    """What limits the calls, and the milliseconds they take at best."""
    flops, moved = sum(c.flops for c in costs), sum(c.bytes for c in costs)
    if flops > bench.DENSE * moved:
        return "fma", flops / peak.fma / 1e6
    return "pass", sum(plain_pass(*each) for each in passes)


def plain_pass(read: int, written: int) -> float:
    """Milliseconds to read and write so many bytes."""
    module = native.loaded()
    source, target = np.ones(read + 64, np.uint8), np.ones(written + 64, np.uint8)
    pointers = module.ffi.from_buffer(target), module.ffi.from_buffer(source)
    call = module.lib.cc_plain_pass_f32
    return 1e3 * min(once(lambda: call(pointers[0], written, pointers[1], read)) for _ in range(20))


# --- networks ---


def vgg_like() -> cc.Sequential:
    """64-64-128-128-256-256-256 on 32x32, a max pooling after the second, fourth and last."""
    layers: list[Any] = []
    c = 3
    for k, pool in ((64, False), (64, True), (128, False), (128, True), (256, False), (256, False), (256, True)):
        layers += [cc.layers.Conv2d(c, k, 3, padding=1), cc.layers.ReLU()]
        layers += [cc.layers.MaxPool2d(2)] if pool else []
        c = k
    return cc.Sequential(*layers, cc.layers.Flatten(), cc.layers.Linear(256 * 16, 10))


NETWORKS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "LeNet": (models.lenet, (128, 1, 28, 28)),
    "NIN CIFAR": (models.network_in_network, (128, 3, 32, 32)),
    "NIN digits": (lambda: models.network_in_network(channels=1), (128, 1, 28, 28)),
    "AlexNet": (models.alexnet, (32, 3, 227, 227)),
    "VGG-like": (vgg_like, (128, 3, 32, 32)),
}


def network_rows(name: str, seconds: float) -> Iterator[Row]:
    """A training step (forward, loss, backward, SGD with momentum), and inference, in images a second."""
    build, shape = NETWORKS[name]
    net = build()
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    outputs = net.eval().apply(x)[0]
    labels = np.random.default_rng(1).integers(0, outputs.shape[1], shape[0])
    train: Calls = {}
    infer: Calls = {}
    for layout in FORMATS:
        module, given = network(net), tensors((x,), layout)[0]
        if layout == "channels_last":
            module = module.to(memory_format=torch.channels_last)
        with torch.no_grad():
            assert distance(module.eval()(given).numpy(), outputs) < 1e-3, name
        infer[f"torch {layout}"] = their_inference(module, given)
    for layout in FORMATS:
        module, given = network(net), tensors((x,), layout)[0]
        if layout == "channels_last":
            module = module.to(memory_format=torch.channels_last)
        train[f"torch {layout}"] = their_step(module, given, torch.from_numpy(labels))
        own = formatted((x,), layout)[0]
        train[f"cnncore {layout}"] = our_step(build().train(), own, labels)
        infer[f"cnncore {layout}"] = our_inference(build().freeze(), own)
    for direction, calls in (("train", train), ("infer", infer)):
        yield fill(Row("nets", name, "x".join(map(str, shape)), direction, "", 0, samples=shape[0]), calls, seconds)


def our_step(net: Any, x: np.ndarray, labels: np.ndarray) -> Callable[[], Any]:
    optimizer = cc.optim.SGD(net, lr=1e-3, momentum=0.9)

    def step() -> None:
        net.zero_grad()
        y, ctx = net.apply(x)
        _, loss = cc.ops.softmax_cross_entropy(y, labels)
        ctx.backward(loss.backward()[0], dx=False)
        optimizer.step()

    return step


def our_inference(net: Any, x: np.ndarray) -> Callable[[], Any]:
    return lambda: net.apply(x)[0]


def their_step(module: Any, x: torch.Tensor, labels: torch.Tensor) -> Callable[[], Any]:
    optimizer = torch.optim.SGD(module.train().parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(x), labels).backward()
        optimizer.step()

    return step


def their_inference(module: Any, x: torch.Tensor) -> Callable[[], Any]:
    def infer() -> None:
        with torch.inference_mode():
            module(x)

    return infer


# --- the sections ---

OPS: list[tuple[str, str, dict[str, Any]]] = [
    ("max_pool", "2x2/2", {"kernel": 2}),
    ("max_pool", "3x3/2", {"kernel": 3, "stride": 2}),
    ("avg_pool", "2x2/2", {"kernel": 2}),
    ("avg_pool", "3x3/2", {"kernel": 3, "stride": 2}),
    ("lp_pool", "p=2 2x2/2", {"kernel": 2, "p": 2.0}),
    ("lp_pool", "p=4 3x3/2", {"kernel": 3, "stride": 2, "p": 4.0}),
    ("lrn", "5", {}),
    ("dropout", "drawing included", {}),
    ("maxout", "4", {"pieces": 4}),
    ("global_max_pool", "", {}),
    ("tanh", "", {}),
    ("relu", "", {}),
    ("sigmoid", "", {}),
]  # the second table of shared/targets.md


def op_problems() -> list[Problem]:
    """Those of the targets, then every other op that `cnncore bench` times."""
    chosen = []
    for op, label, attrs in OPS:
        like = bench.problems_of(cc.ops.registry[op])[0]
        chosen.append(Problem(like.op, label or "x".join(map(str, SHAPE)), like.make, attrs))
    named = {op for op, _, _ in OPS}
    rest = [op for name, op in cc.ops.registry.items() if name not in named | {"conv"}]
    return chosen + [problem for op in rest for problem in bench.problems_of(op)]


def machine(peak: bench.Peaks) -> dict[str, Any]:
    """What the figures were taken on."""
    cpu = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "cpu": cpu[0] if cpu else platform.processor(),
        "threads": native.get_threads(),
        "fma_gflops": peak.fma,
        "copy_gbs": peak.copy,
        "cnncore": {"version": cc.__version__, "isa": native.current_isa(), "compiler": native.info()["compiler"]},
        "torch": torch.__version__,
    }


def rows(section: str, only: str, peak: bench.Peaks, seconds: float) -> list[Row]:
    work: list[tuple[str, Callable[[], Iterator[Row]]]]
    if section == "nets":
        work = [(name, lambda name=name: network_rows(name, seconds)) for name in NETWORKS]
    else:
        problems = bench.problems_of(cc.ops.registry["conv"]) if section == "conv" else op_problems()
        work = [(f"{p.op.name} {p.name}", lambda p=p: op_rows(section, p, peak, seconds)) for p in problems]
    found: list[Row] = []
    work = [(name, make) for name, make in work if only in name]
    with Progress(len(work)) as bar:
        for name, make in work:
            bar.advance(1, f"{section}: {name}")
            found += make()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=["conv", "ops", "nets"], help="of: conv, ops, nets")
    parser.add_argument(
        "--only", default="", metavar="NAME", help="only problems with NAME in their name; saves nothing"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="for each side of each problem (default: 1)")
    args = parser.parse_args()
    torch.set_num_threads(native.get_threads())
    peak = bench.peaks()
    for section in args.sections:
        result = {
            "machine": machine(peak),
            "rows": [asdict(r) for r in rows(section, args.only, peak, args.seconds)],
        }
        print(table(section, result))
        if not args.only:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{section}.json").write_text(json.dumps(result, indent=1))
    if not args.only:
        saved = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
        (RESULTS / "README.md").write_text("\n\n".join(table(name, result) for name, result in saved.items()) + "\n")


if __name__ == "__main__":
    sys.exit(main())
