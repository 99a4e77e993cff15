"""A training step beside plain PyTorch: images per second, MFU, and the time of each part.

The peer is the same net in plain PyTorch (benchmarks/peers.py). Ours is the trainer's step, from
stored uint8 images to updated weights, in bf16 (fp32 on a CPU that emulates it): all towers in one
process, and one tower on each of two ranks. GFLOP/s count the net's arithmetic without
normalisation. MFU is their ratio to the rate of a large matrix product on this machine.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

from launch.program import run_program

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import peers
from benchmarks.contest import Contestant, Row, contest, parser, report
from common.arguments import whole
from common.cpu import cpu_emulates
from data.synthetic import Synthetic
from distributed.mesh import Mesh
from launch.world import launched_world
from planning.formulas import Net
from planning.measuring.rates import matrix_rate
from training.batches import LocalBatch, local_batches, make_preprocess
from training.config import Config
from training.precision import PRECISIONS
from training.trainer import StepResult, Trainer, build_model

PRECISION = "fp32" if cpu_emulates(torch.bfloat16) else "bf16"
"""The fastest on this CPU."""
SIZE = 224
STEPS = 10**6
"""More than any benchmark takes."""
NETS = {"paper": (2, 3, 1000), "d2l": (1, 1, 10)}
"""Towers, channels and classes."""

PARTS = {
    "convolution": ("aten::mkldnn_convolution", "aten::convolution_backward"),
    "matrix product": ("aten::mm", "aten::addmm", "aten::matmul"),
    "norm and pooling": ("_ReluNormPool", "_ReluNormPoolBackward"),
    "ReLU": ("aten::clamp_min", "aten::threshold_backward", "aten::relu"),
    "copies and casts": ("aten::copy_", "aten::fill_", "aten::cat", "aten::constant_pad_nd"),
    "optimiser": ("aten::_fused_sgd_",),
}


def ours(variant: str, towers: int, batch: int, **settings: Any) -> Callable[[], StepResult]:
    """The trainer's step on this rank of the mesh, with these settings beside those of the job."""
    trainer, batches = make_trainer(variant, towers, batch, **settings)
    return lambda: trainer.train_step(next(batches)).result()


def make_trainer(
    variant: str, towers: int, batch: int, size: int = SIZE, **settings: Any
) -> tuple[Trainer, Iterator[LocalBatch]]:
    """A trainer on this rank of the mesh, and its local batches of synthetic images."""
    _, channels, classes = NETS[variant]
    config = job(variant, towers, batch, size, **settings)
    mesh = Mesh.start(config.plan(launched_world().size))
    model = build_model(config, mesh, classes, channels)
    trainer = Trainer(config, mesh, model, make_preprocess(config, channels), STEPS)
    return trainer, local_batches(config, mesh, synthetic_images(config), 0, STEPS)


def job(variant: str, towers: int, batch: int, size: int, **settings: Any) -> Config:
    """The configuration of a benchmark's training in ``PRECISION``, with changes."""
    values = {
        "variant": variant,
        "towers": towers,
        "batch_size": batch,
        "epochs": STEPS,
        "precision": PRECISION,
        "data": {"name": "synthetic", "size": size, "mean": 128.0, "std": 1.0},
        "optimizer": {"learning_rate": 1e-5},
    }
    return Config.model_validate(values | settings)


def synthetic_images(config: Config) -> Synthetic:
    """Eight global batches of images as large as the net reads."""
    _, channels, classes = NETS[config.variant]
    side = config.data.size
    return Synthetic(
        *("train", 8 * config.batch_size),
        classes=classes,
        channels=channels,
        height=side,
        width=side,
    )


def profiled(variant: str, towers: int, batch: int) -> Callable[[], list[Row]]:
    """A function that runs a step under the profiler; returns the parts of the fastest so far."""
    step = ours(variant, towers, batch)
    for _ in range(3):  # warm
        step()
    told: list[list[Row]] = []

    def run() -> list[Row]:
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            step()
        told.append(_by_part(recorded, variant, towers, batch))
        return min(told, key=lambda rows: sum(row["ms"] for row in rows))

    return run


def _by_part(recorded: Any, variant: str, towers: int, batch: int) -> list[Row]:
    times = {event.key: event.self_cpu_time_total / 1e3 for event in recorded.key_averages()}
    whole = sum(times.values())
    macs = _net(variant, towers).macs()
    conv, fc = (
        sum(value for name, value in macs.items() if name.startswith(kind))
        for kind in ("conv", "fc")
    )
    flops = {"convolution": 6 * conv - 2 * macs["conv1"], "matrix product": 6 * fc}
    rows: list[Row] = []
    for part, names in PARTS.items():
        spent = sum(times.pop(name, 0.0) for name in names)
        speed = batch * flops[part] / spent / 1e6 if part in flops else None
        rows.append({"part": part, "ms": spent, "fraction": spent / whole, "GFLOP/s": speed})
    left = sum(times.values())
    return [*rows, {"part": "all else", "ms": left, "fraction": left / whole}]


def _net(variant: str, towers: int) -> Net:
    _, channels, classes = NETS[variant]
    return Net(variant, towers, channels, SIZE, classes)


def compared(variant: str, batch: int, rounds: int, peak: float) -> list[Row]:
    """Time one net; returns the rows of its table."""
    towers, channels, classes = NETS[variant]
    local = Contestant("ours, one process", ours, (variant, towers, batch))
    split = Contestant("ours, split over two ranks", ours, (variant, 2, batch), ranks=2)
    plain = Contestant("plain PyTorch", peers.training_step, (variant, channels, batch, classes))
    timings = contest([plain, local, split] if towers == 2 else [plain, local], rounds)
    gflop = batch * _net(variant, towers).flops() / 1e9
    return [
        {
            "": name,
            "images/s": batch / timing.seconds,
            "× plain": timing.times_faster_than(timings["plain PyTorch"]),
            "GFLOP/s": gflop / timing.seconds,
            "MFU": gflop / timing.seconds / peak,
        }
        for name, timing in timings.items()
    ]


def main() -> int:
    """Time and profile both nets."""
    add = parser(__doc__)
    add.add_argument("--batch", type=whole(), default=128, metavar="N", help="default: %(default)s")
    arguments = add.parse_args()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler is loud where there is no GPU
    peak = matrix_rate(PRECISIONS[PRECISION].dtype, torch.device("cpu")) / 1e9
    tables = {"peak": [{f"{PRECISION} matrix product, GFLOP/s": peak}]}
    for variant, (towers, _, _) in NETS.items():
        title = f"{variant}, {towers} tower(s), {SIZE} px, batch {arguments.batch}"
        tables[title] = compared(variant, arguments.batch, arguments.rounds, peak)
        with Contestant("profile", profiled, (variant, towers, arguments.batch)) as one:
            tables[f"{variant}: a step in one process"] = one.run(8)[1]
    report("step", tables, arguments.json)
    return 0


if __name__ == "__main__":
    run_program(main, most_ranks=1)
