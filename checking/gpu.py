"""What is asked of a GPU alone: the logits of the CPU, and that no step has the host wait."""

import warnings
from collections.abc import Iterator

import torch
import torch.distributed as dist

from checking.equality import fitting
from checking.report import Outcome
from checking.steps import Trainings, next_batches, relative_error, small_config, take_steps
from model.alexnet import AlexNet
from model.initialization import initialize
from model.placement import Placement
from model.variants import VARIANTS
from training.trainer import Trainer

NO_GPU = "no GPU"
IMAGES, SIDE, CLASSES = 4, 224, 1000
TOLERANCE = 1e-4
"""Of logits in fp32, relative to the largest."""


def check_logits(trainings: Trainings) -> Iterator[Outcome]:
    """Compare the logits of each rank's GPU with those of the CPU, with the paper's full net."""
    mesh, name = trainings.mesh, "logits of GPU and CPU"
    if mesh.device.type != "cuda":
        yield Outcome(name, None, NO_GPU)
        return
    error = mesh.largest(logits_error(mesh.device))
    yield Outcome(name, error <= TOLERANCE, f"largest relative error {error:.1e}")


@torch.no_grad()
def logits_error(device: torch.device) -> float:
    """The largest difference between a device's logits and the CPU's, relative to the largest."""
    model = AlexNet(VARIANTS["paper"], CLASSES, 3, Placement(2)).eval()
    initialize(model, 0)
    images = torch.randn(IMAGES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    expected = model(images)
    return relative_error(model.to(device)(images.to(device)).cpu(), expected)


def check_host_is_free(trainings: Trainings) -> Iterator[Outcome]:
    """Count the operations of a step that have the host wait for the GPU, in every placement."""
    mesh, name = trainings.mesh, "the host waits for no step"
    if mesh.device.type != "cuda":
        yield Outcome(name, None, NO_GPU)
        return
    if dist.get_backend() != "nccl":
        yield Outcome(name, None, "gloo waits for the GPU")
        return
    alone = {"one process": small_config(1, "fp32")}
    for placement, config in (fitting(trainings.ranks, "fp32")[0] or alone).items():
        trainer = trainings.start(config)
        take_steps(trainer, 2)  # makes buckets and momentum, and compiles
        waits = mesh.largest(count_waits(trainer))
        yield Outcome(f"{name}, {placement}", not waits, f"{waits:.0f} operations wait")


def count_waits(trainer: Trainer) -> int:
    """The operations of the next step that have the host wait, as torch warns of them."""
    [local] = next_batches(trainer, 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step = trainer.train_step(local)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    step.result()
    return sum("called a synchronizing" in str(warning.message) for warning in caught)
