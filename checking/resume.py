"""The proof that a run goes on from a checkpoint as if it had never stopped."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from checking.report import Outcome
from checking.steps import Trainings, small_config, take_steps
from common.files import writing
from recording.checkpoint import verify_checkpoint, write_checkpoint
from recording.snapshots import load_checkpoint, take_snapshot
from recording.totals import Totals
from training.trainer import Trainer

BEFORE = 2
"""Steps before the checkpoint; one follows."""


def check_resume(trainings: Trainings, folder: Path) -> Iterator[Outcome]:
    """Take a step after a checkpoint, and again in a new trainer that has read it.

    The checkpoint is written below ``folder``, which every rank must see, and removed.
    """
    config, mesh = small_config(trainings.ranks, "fp32"), trainings.mesh
    first, second = trainings.start(config), trainings.start(config)
    take_steps(first, BEFORE)
    content = take_snapshot(first, Totals())
    place = mesh.from_main(lambda: _new_folder(folder))
    try:
        mesh.from_main(lambda: write_checkpoint(place / "checkpoint", content))
        load_checkpoint(place / "checkpoint", verify_checkpoint(place / "checkpoint"), second)
        mesh.largest(0.0)  # all have read it
    finally:
        if mesh.is_main:
            shutil.rmtree(place, ignore_errors=True)
    losses = [take_steps(trainer, 1)[0].loss for trainer in (first, second)]
    pairs = zip(_state(first), _state(second), strict=True)
    differing = sum(not torch.equal(one, other) for one, other in pairs)
    worst = mesh.largest(differing + (losses[0] != losses[1]))
    said = "equal bit for bit" if not worst else f"{worst:.0f} tensors of a rank differ"
    yield Outcome(f"step {BEFORE + 1} after a checkpoint", not worst, said)


def _new_folder(folder: Path) -> Path:
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=".resume-", dir=folder))


def _state(trainer: Trainer) -> list[Tensor]:
    """This rank's slices of the weights and of the optimiser's state."""
    states = [trainer.optimizer.state[parameter] for parameter in trainer.model.parameters()]
    kept = [value for state in states for value in state.values() if isinstance(value, Tensor)]
    return [*(parameter.detach() for parameter in trainer.model.parameters()), *kept]
