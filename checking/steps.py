"""Small trainings, in which every rank can afford to compute what one process would."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from data.synthetic import Synthetic
from distributed.mesh import Mesh
from distributed.plan import Plan
from training.batches import LocalBatch, local_batches, make_preprocess
from training.config import Config
from training.trainer import StepResult, Trainer, build_model

STEPS = 3
SIZE, STORED = 64, 72
CHANNELS, CLASSES = 3, 10
HIDDEN, BATCH = 480, 6
"""The least; more ranks may need more."""


def small_config(ranks: int, precision: str, **settings: Any) -> Config:
    """A training of two steps an epoch, the second on a short batch, with dropout and mirroring.

    The hidden units can be divided by two towers and by the ranks.
    """
    batch = max(BATCH, 2 * ranks)
    values = {
        "precision": precision,
        "batch_size": batch,
        "epochs": STEPS,
        "net": {"hidden": 2 * ranks * -(-HIDDEN // (2 * ranks))},
        "data": {
            "name": "synthetic",
            "size": SIZE,
            "stored_size": STORED,
            "resize": STORED,
            "synthetic_length": 2 * batch - 1,
            "mean": 100.0,
            "std": 20.0,
            "mirror": True,
        },
        "optimizer": {"learning_rate": 0.01},
        "schedule": {"name": "one_cycle"},
        "tracking": {"mode": "disabled"},
    }
    return Config.model_validate(values | settings)


class Trainings:
    """Trainers on the ranks of ``mesh``, of which each is a replica; groups are made once."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self._meshes = mesh, {mesh.plan: mesh}
        self._alone: dict[int, Mesh] = {}

    @property
    def ranks(self) -> int:
        """The number of ranks."""
        return self.mesh.plan.world_size

    def start(self, config: Config) -> Trainer:
        """A trainer on all ranks, with its initial values."""
        plan: Plan = config.plan(self.ranks)
        if plan not in self._meshes:
            self._meshes[plan] = self.mesh.replanned(plan)
        return _trainer(config, self._meshes[plan])

    def start_alone(self, config: Config) -> Trainer:
        """A trainer of the same net in one process: this one, and in every other rank too."""
        if config.towers not in self._alone:
            self._alone[config.towers] = self.mesh.alone(config.towers)
        return _trainer(config, self._alone[config.towers])


def _trainer(config: Config, mesh: Mesh) -> Trainer:
    model = build_model(config, mesh, CLASSES, CHANNELS)
    return Trainer(config, mesh, model, make_preprocess(config, CHANNELS), STEPS)


def next_batches(trainer: Trainer, number: int) -> Iterator[LocalBatch]:
    """This rank's part of the next ``number`` batches of generated images."""
    length = trainer.config.data.synthetic_length
    images = Synthetic(
        "train", length, classes=CLASSES, channels=CHANNELS, height=STORED, width=STORED
    )
    first = trainer.steps
    return local_batches(trainer.config, trainer.mesh, images, first, first + number)


def take_steps(trainer: Trainer, number: int) -> list[StepResult]:
    """Take the next ``number`` steps."""
    return [trainer.train_step(local).result() for local in next_batches(trainer, number)]


def full_tensors(trainer: Trainer) -> dict[str, Tensor]:
    """The full weights and the full gradients of the last step; every rank must call it."""
    tensors = {}
    for name, parameter in trainer.model.named_parameters():
        assert parameter.grad is not None
        for kind, part in (("weight", parameter.detach()), ("gradient", parameter.grad)):
            tensors[f"{kind} {name}"] = trainer.placement.unshard(name, part.contiguous())
    return tensors


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest value expected; infinite if not finite."""
    error = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    return error if torch.tensor(error).isfinite() else float("inf")
