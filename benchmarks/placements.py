"""The placements beside torch's own tools, on two ranks.

Everyone trains the paper's single-stream net (``split``: the paper's two towers, another net) with
1000 classes on the same synthetic images at 224 px, in bf16 autocast (fp32 on a CPU that emulates
bf16), channels-last, with SGD and momentum. The peers (benchmarks/parallel.py) have our layers, so
only the parallelism differs.

Each is timed in turn with ``torch DDP``. First its gradients in two steps, in fp64, with dropout,
and with 512 units in fc6 and fc7, are compared with one process's; ``error`` is the largest
difference, relative to the largest value of a gradient. Whoever fails or is further off than 1e-6
is not timed, and its row says why.

``MB sent`` is what the kernel says that rank 0 sent on its TCP connections, for everyone alike;
``counted`` is what our own counter says. ``MB held`` are rank 0's weights and momentum, ``peak MB``
its memory.
"""

import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from statistics import median
from textwrap import shorten
from typing import Any, NamedTuple

from launch.program import run_program

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from benchmarks.contest import Contestant, Row, Timing, contest, parser, report
from benchmarks.parallel import PEERS, PeerTrainer, alone
from benchmarks.step import NETS, PRECISION, SIZE, STEPS, job, synthetic_images
from checking.steps import relative_error
from common.arguments import whole
from data.datasets import Dataset
from data.loading import Batch
from distributed.device import peak_memory
from distributed.mesh import Mesh
from launch.world import launched_world
from training.batches import LocalBatch, local_batches, make_preprocess
from training.config import Config
from training.trainer import LaunchedStep, Trainer, build_model

BASE = "torch DDP"
OURS: dict[str, dict[str, Any]] = {
    "ours, ddp": {"placement": "ddp"},
    **{
        f"ours, hybrid ({scheme})": {"placement": "hybrid", "classifier_scheme": scheme}
        for scheme in "abc"
    },
    "ours, split (2 towers)": {"placement": "split", "towers": 2},
}
EQUAL = 1e-6
CLAIM = "ours, ddp"
SLACK = 0.97
"""Times ``BASE`` that still counts as no slower: an allowance for noise, chosen, not measured."""
EXACT: dict[str, Any] = {
    "precision": "fp64",
    "net": {"hidden": 512},
    "optimizer": {"learning_rate": 0.01},
}
EXACT_BATCH, EXACT_SIZE = 8, 64
BYTES_SENT_AT = 200
"""The offset of ``tcpi_bytes_sent`` in Linux's ``struct tcp_info``."""


def start(name: str, batch: int, size: int, **changes: Any) -> tuple[Config, Mesh]:
    """A contestant's configuration, and its mesh on this rank: of replicas, where torch splits."""
    settings = {"placement": "ddp", **OURS.get(name, {}), **changes}
    config = job("paper", batch=batch, size=size, **{"towers": 1, **settings})
    return config, Mesh.start(config.plan(launched_world().size))


def make_trainer(name: str, config: Config, mesh: Mesh) -> Trainer | PeerTrainer:
    """The contestant with this name on this rank."""
    if name in PEERS:
        return PeerTrainer(PEERS[name], config, mesh)
    _, channels, classes = NETS[config.variant]
    model = build_model(config, mesh, classes, channels)
    return Trainer(config, mesh, model, make_preprocess(config, channels), STEPS)


# --- Equality -------------------------------------------------------------------------------------


def full_gradients(trainer: Trainer | PeerTrainer) -> dict[str, Tensor]:
    """The full gradients of the last step; every rank must call it."""
    if isinstance(trainer, PeerTrainer):
        return trainer.gradients()
    return {
        name: trainer.placement.unshard(name, _gradient(parameter).contiguous())
        for name, parameter in trainer.model.named_parameters()
    }


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def compare_with_one_process(name: str) -> Callable[[], float | str]:
    """The largest relative error of a contestant's gradients, or the reason why it has none."""
    try:
        error: float | str = gradient_error(name)
    except Exception as failure:
        first_line = f"{failure}".strip().partition("\n")[0]
        error = shorten(f"{type(failure).__name__}: {first_line}", 70)
    return lambda: error


def gradient_error(name: str) -> float:
    """The largest difference from one process's gradients, relative to each one's largest value."""
    config, mesh = start(name, EXACT_BATCH, EXACT_SIZE, **EXACT)
    images = synthetic_images(config)
    trainer = make_trainer(name, config, mesh)
    reference = PeerTrainer(alone, config, mesh)
    errors = []
    for local in local_batches(config, mesh, images, 0, 2):
        trainer.train_step(local)
        reference.train_step(whole_batch(local, images))
        found, expected = full_gradients(trainer), reference.gradients()
        for layer, gradient in expected.items():
            errors.append(relative_error(found[layer], gradient))
    return max(errors)


def whole_batch(local: LocalBatch, images: Dataset) -> LocalBatch:
    """The global batch of which ``local`` is this replica's part."""
    indices = torch.cat(list(local.indices))
    return local._replace(batch=Batch(*images.read(indices), indices), indices=[indices])


# --- Speed, bytes and memory ----------------------------------------------------------------------


class Held(NamedTuple):
    """Bytes that a contestant's rank has sent in a step, and bytes that it holds."""

    sent: float
    counted: int | None
    tensors: int
    peak: int


def timed(name: str, batch: int, size: int) -> Callable[[], Held]:
    """The step of a contestant on this rank."""
    config, mesh = start(name, batch, size)
    trainer = make_trainer(name, config, mesh)
    batches = local_batches(config, mesh, synthetic_images(config), 0, STEPS)
    trainer.train_step(next(batches))  # makes connections, buckets and momentum
    tensors = sum(each.nbytes for each in held_tensors(trainer))

    def step() -> Held:
        before = bytes_sent()
        done = trainer.train_step(next(batches))
        counted = done.result().cost.bytes_sent if isinstance(done, LaunchedStep) else None
        return Held(bytes_sent() - before, counted, tensors, peak_memory(mesh.device))

    return step


def held_tensors(trainer: Trainer | PeerTrainer) -> Iterator[Tensor]:
    """This rank's part of the weights and of the optimiser's state."""
    state = [value for values in trainer.optimizer.state.values() for value in values.values()]
    for tensor in [*trainer.model.parameters(), *state]:
        if isinstance(tensor, Tensor):
            yield tensor.to_local() if isinstance(tensor, DTensor) else tensor


def bytes_sent() -> int:
    """Bytes of data that this process has sent on its TCP connections, as Linux counts them."""
    total = 0
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            if not stat.S_ISSOCK(os.fstat(int(descriptor)).st_mode):
                continue
        except OSError:  # the listing's own descriptor
            continue
        with socket.socket(fileno=os.dup(int(descriptor))) as connection:
            if connection.type == socket.SOCK_STREAM and connection.family != socket.AF_UNIX:
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                total += struct.unpack_from("=Q", info, BYTES_SENT_AT)[0]
    return total


# --- The table ------------------------------------------------------------------------------------


def row_of(name: str, batch: int, size: int, rounds: int) -> Row:
    """A contestant's row: its error and, if it is right, its figures beside those of ``BASE``."""
    with Contestant(name, compare_with_one_process, (name,), ranks=2) as one:
        error = one.run(1)[1]
    row: Row = {"": name, "error": f"≈ {error:.0e}" if isinstance(error, float) else None}
    if not isinstance(error, float) or error > EQUAL:
        return {**row, "failed": error}
    both = [Contestant(each, timed, (each, batch, size), ranks=2) for each in {BASE: 0, name: 0}]
    timings = contest(both, rounds)
    return row | figures(timings[name], timings[BASE], batch)


def figures(timing: Timing, base: Timing, batch: int) -> Row:
    """The measured columns of a contestant's row."""
    held: list[Held] = timing.results
    counted = held[-1].counted
    return {
        "images/s": batch / timing.seconds,
        f"× {BASE}": timing.times_faster_than(base),
        "MB sent": median(each.sent for each in held) / 1e6,
        "counted": None if counted is None else counted / 1e6,
        "MB held": held[-1].tensors / 1e6,
        "peak MB": max(each.peak for each in held) / 1e6,
    }


def claim(rows: list[Row]) -> Row:
    """The row that says if our data parallelism is no slower than torch's."""
    ratio = next(row.get(f"× {BASE}") for row in rows if row[""] == CLAIM)
    holds = ratio is not None and ratio >= SLACK
    return {"claim": f"{CLAIM} is no slower than {BASE}", "×": ratio, "holds": holds}


def main() -> int:
    """Compare everyone; the failures have a table of their own."""
    add = parser(__doc__)
    add.add_argument("--batch", type=whole(), default=64, metavar="B", help="default: %(default)s")
    add.add_argument(
        "--size", type=whole(), default=SIZE, metavar="PX", help="default: %(default)s"
    )
    arguments = add.parse_args()
    rows = [
        row_of(name, arguments.batch, arguments.size, arguments.rounds) for name in (*PEERS, *OURS)
    ]
    failures = [{"": row[""], "why": row.pop("failed")} for row in rows if "failed" in row]
    title = f"paper, 1 tower, {arguments.size} px, global batch {arguments.batch}, two ranks"
    report(
        "placements",
        {f"{title}, {PRECISION}": rows, "claims": [claim(rows)]}
        | ({"failed": failures} if failures else {}),
        arguments.json,
    )
    return 0


if __name__ == "__main__":
    run_program(main, most_ranks=1)
