"""A classifier's gradients or its activations, whichever is cheaper to move: measured by batch.

  torchrun --nproc_per_node=2 examples/threshold.py
  torchrun --nproc_per_node=2 examples/threshold.py --hidden 2048

fc6 to fc8 train on random features under two placements: replicated, where the ranks sum all
gradients, and divided, where they exchange activations. Bytes are counted at rank 0. Times are
medians of three passes, forward and backward, over this machine's own links.
"""

import logging
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

from launch.program import ArgumentParser, run_program

import torch
from tabulate import tabulate

from checking.steps import Trainings, small_config
from common.arguments import whole
from common.errors import ReportedError
from common.files import home_path
from distributed.mesh import Mesh
from examples.pictures import draw_bytes, save
from launch.world import launched_world
from training.trainer import Trainer

log = logging.getLogger(__name__)
HEADINGS = ("global batch", "gradients, MB", "activations, MB", "gradients, ms", "activations, ms")


def main() -> int:
    """Measure both at batches around the threshold; returns the exit status."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=whole(), default=1024, help="units of fc6 and of fc7")
    parser.add_argument("--png", type=home_path, metavar="FILE", help="draw the bytes, too")
    arguments = parser.parse_args()
    ranks, hidden = launched_world().size, arguments.hidden
    if ranks < 2 or hidden < 4 * ranks:
        raise ReportedError("start at least 2 ranks, with 4 or more hidden units for each")
    replicated, divided = (
        small_config(ranks, "fp32", placement=placement, towers=1, net={"hidden": hidden})
        for placement in ("ddp", "hybrid")
    )
    trainings = Trainings(Mesh.start(replicated.plan(ranks)))
    trainers = trainings.start(replicated), trainings.start(divided)
    rows = []
    for batch in (hidden // 4, hidden // 2, hidden, 2 * hidden):
        images = batch // ranks
        sent, seconds = zip(*(measure(each, images) for each in trainers), strict=True)
        rows.append((ranks * images, *(s / 1e6 for s in sent), *(1e3 * s for s in seconds)))
    log.info("%s", tabulate(rows, HEADINGS, floatfmt=(".0f", ".2f", ".2f", ".0f", ".0f")))
    if arguments.png and trainings.mesh.is_main:
        save(draw_bytes(rows, hidden), arguments.png)
    return 0


def measure(trainer: Trainer, images: int) -> tuple[int, float]:
    """Bytes and seconds of a pass of the classifier on so many ``images`` of each rank."""
    seconds = []
    for _ in range(4):
        features = torch.rand(images, trainer.model.fc6.in_features, device=trainer.mesh.device)
        features.requires_grad_()
        trainer.mesh.largest(0.0)  # so that the ranks begin together
        trainer.mesh.timer.take()
        began = time.perf_counter()
        logits = trainer.classifier(trainer.placement.to_classifier(features))
        logits.logsumexp(1).sum().backward()
        trainer.mesh.largest(0.0)  # which waits for a GPU
        seconds.append(time.perf_counter() - began)
    return sum(trainer.mesh.timer.take().sent.values()), median(seconds[1:])


if __name__ == "__main__":
    run_program(main)
