"""Snapshots of a trainer: saved as checkpoints while training goes on, and loaded again.

A snapshot holds full tensors, whatever the placement. Of the optimiser it holds every tensor that
has its parameter's shape, and scalars; so any optimiser with no other state can be resumed.
"""

import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import Self

from common.errors import ReportedError
from distributed.device import finish_copies, to_host
from model.alexnet import AlexNet
from recording.checkpoint import (
    MODEL,
    OPTIMIZER,
    Content,
    checkpoint_name,
    open_tensors,
    prune_checkpoints,
    write_checkpoint,
)
from recording.totals import Totals
from training.trainer import Trainer

log = logging.getLogger(__name__)


class CheckpointWriter:
    """Saves checkpoints while training goes on, which waits only for a copy in memory.

    Every rank must have one and make the same calls: those that hold slices send them to rank 0,
    which alone writes. As a context manager it waits for the last write to end.
    """

    def __init__(self, folder: Path, trainer: Trainer, newest: Path | None) -> None:
        """``newest`` is the checkpoint that the trainer was loaded from, if any."""
        self.folder, self.trainer, self.newest = folder, trainer, newest
        self.thread = ThreadPoolExecutor(1)
        self.pending: Future[Path] | None = None

    def is_due(self, totals: Totals) -> bool:
        """True if the step just taken ends in a checkpoint."""
        config, trainer = self.trainer.config, self.trainer
        is_best = config.keep_best and totals.best_step == trainer.steps
        return is_best or trainer.is_due(config.checkpoint_every)

    def save(self, totals: Totals) -> None:
        """Begin to write ``folder/step-N`` after N steps, once the last one is written; then prune.

        Raises ReportedError on every rank if the disk refused the last one, unless the
        configuration says to go on.
        """
        config, mesh = self.trainer.config, self.trainer.mesh
        if not config.keep_checkpoints:
            return
        mesh.from_main(self._end_writing_or_warn)
        content = take_snapshot(self.trainer, totals)
        if mesh.is_main:
            target = self.folder / checkpoint_name(self.trainer.steps)
            kept = {checkpoint_name(totals.best_step)} if config.keep_best else set()
            self.pending = self.thread.submit(
                _write, target, content, config.keep_checkpoints, kept
            )

    def finish(self) -> Path | None:
        """Wait for the newest checkpoint; raises ReportedError if the disk refused it."""
        self.newest = self.trainer.mesh.from_main(self._end_writing)
        return self.newest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.shutdown()

    def _end_writing(self) -> Path | None:
        if self.pending is not None:
            pending, self.pending = self.pending, None
            self.newest = pending.result()
        return self.newest

    def _end_writing_or_warn(self) -> None:
        try:
            self._end_writing()
        except ReportedError as error:
            if self.trainer.config.write_errors == "stop":
                raise
            log.warning("%s; training goes on without that checkpoint", error)


def _write(target: Path, content: Content, number: int, kept: set[str]) -> Path:
    for name, tensor in content.model.items():
        if not tensor.sum().isfinite():
            raise ReportedError(
                f"{name} is no longer finite, so {target} was not written: start from the last "
                "checkpoint (weights=…) with a lower optimizer.learning_rate"
            )
    write_checkpoint(target, content)
    prune_checkpoints(target, number, kept)
    return target


def take_snapshot(trainer: Trainer, totals: Totals) -> Content:
    """The trainer's state, with full tensors on rank 0 alone.

    Every rank must call it: each full tensor is gathered from the slices of its first copy.
    """
    model = trainer.model
    tensors, scalars = _optimizer_state(model, trainer.optimizer)
    state = {
        "trainer": trainer.state(),
        "optimizer": scalars,
        "totals": asdict(totals),
        "config": trainer.config.model_dump(mode="json"),
        **trained_on(trainer),
    }
    weights = dict(model.named_parameters())
    return Content(_full_copies(trainer, weights), _full_copies(trainer, tensors), state)


def trained_on(trainer: Trainer) -> dict[str, Any]:
    """What the trainer is trained on, as ``check_same_data`` compares it."""
    data = {**trainer.data, "total_steps": trainer.total_steps}
    return {"classes": list(trainer.classes), "data": data}


def _optimizer_state(
    model: AlexNet, optimizer: Optimizer
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """(tensors of their parameter's shape, scalars) by ``KEY/PARAMETER``, as held on this rank.

    Raises ValueError for a tensor that is neither, which a checkpoint could not keep.
    """
    tensors, scalars = {}, {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                tensors[f"{key}/{name}"] = value
            elif value is not None:
                scalars[f"{key}/{name}"] = float(value)
    return tensors, scalars


def _full_copies(trainer: Trainer, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On rank 0, copies of the full tensors on the CPU; each name ends in that of a parameter."""
    copies = {}
    for name, tensor in tensors.items():
        sharding = trainer.placement.sharding(name.rpartition("/")[2])
        if sharding.copies.index == 0:
            full = sharding.unshard(tensor.detach())
            if trainer.mesh.is_main:
                copies[name] = _copy_of(full, tensor)
    finish_copies(trainer.mesh.device)
    return copies


def _copy_of(full: Tensor, part: Tensor) -> Tensor:
    """``full`` itself if it is already a copy on the CPU, and no view of ``part``."""
    is_copy = full.data_ptr() != part.data_ptr() and full.device.type == "cpu"
    return full if is_copy and full.is_contiguous() else to_host(full)


@torch.no_grad()
def load_checkpoint(path: Path, state: dict[str, Any], trainer: Trainer) -> None:
    """Load the trainer's state, and this rank's slices of the weights and the optimiser's tensors.

    Raises ReportedError if the checkpoint is of another net.
    """
    placement = trainer.model.placement
    with open_tensors(path / MODEL) as file:
        _check_same_net(path, trainer.model, file)
        for name, parameter in trainer.model.named_parameters():
            parameter.copy_(placement.shard(name, file.get_tensor(name)))
    try:
        _load_optimizer(path, dict(state.get("optimizer", {})), trainer)
        trainer.load_state(state["trainer"])
    except (LookupError, TypeError, ValueError):
        raise ReportedError(f"the checkpoint {path} is damaged: its state is not valid") from None


def _load_optimizer(path: Path, scalars: dict[str, float], trainer: Trainer) -> None:
    model, optimizer = trainer.model, trainer.optimizer
    parameters = dict(model.named_parameters())
    states: dict[str, dict[str, Any]] = {name: {} for name in parameters}
    with open_tensors(path / OPTIMIZER) as file:
        for full_name in file.keys():  # noqa: SIM118 - not a mapping
            key, _, name = full_name.rpartition("/")
            part = model.placement.shard(name, file.get_tensor(full_name))
            buffer = torch.empty_like(parameters[name]).copy_(part)
            states[name][key or "momentum_buffer"] = buffer  # older checkpoints name no key
    for full_name, value in scalars.items():
        key, _, name = full_name.rpartition("/")
        states[name][key] = value
    given = {index: states[name] for index, name in enumerate(parameters) if states[name]}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": given, "param_groups": groups})


def _check_same_net(path: Path, model: AlexNet, file: Any) -> None:
    expected = {
        name: list(model.placement.full_shape(name, parameter.shape))
        for name, parameter in model.named_parameters()
    }
    found = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    for name in expected | found:
        if expected.get(name) != found.get(name):
            raise ReportedError(
                f"the checkpoint {path} is of another net: its {name} has shape "
                f"{found.get(name)}, this net's has {expected.get(name)}"
            )
