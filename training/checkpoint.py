"""Checkpoints in the local layout, whatever mesh wrote them; nothing pickled.

A checkpoint is a folder ``step-00000123`` with ``model.safetensors``, ``optimizer.safetensors``,
``state.json`` and ``manifest.json`` (SHA-256 of the others). It is written aside, synced and
renamed, so a folder under its final name is whole.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.alexnet import AlexNet
from model.errors import InputError
from training.folder import writing
from training.loop import Trainer
from training.totals import Totals

log = logging.getLogger(__name__)

_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


def save_checkpoint(folder: Path, trainer: Trainer, totals: Totals) -> Path:
    """Write ``folder/step-N`` after N steps, then prune all but the newest ones.

    Every rank must call it; the towers of the first replica hand their slices to rank 0, which
    alone touches the disk. Returns the checkpoint's folder, which exists then. Raises InputError
    on every rank when the disk refuses.
    """
    mesh, model, config = trainer.mesh, trainer.model, trainer.config
    tensors: list[dict[str, Tensor]] = []
    if mesh.replica == 0:
        tensors = [
            _local_form(model, dict(model.named_parameters())),
            _local_form(model, _momentum(model, trainer.optimizer)),
        ]

    def write() -> Path:
        target = folder / f"step-{trainer.steps:08d}"
        state = {
            "trainer": trainer.state(),
            "totals": asdict(totals),
            "config": config.model_dump(mode="json"),
            "classes": list(trainer.classes),
        }
        with writing(target):
            _write(target, tensors, state)
            for old in list_checkpoints(folder)[: -config.keep_checkpoints]:
                shutil.rmtree(old)
        return target

    return mesh.from_main(write)


def _local_form(model: AlexNet, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: model.towers.unshard(name, tensor.detach()).cpu().contiguous()
        for name, tensor in tensors.items()
    }


def _momentum(model: AlexNet, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    buffers = {
        name: optimizer.state[parameter].get("momentum_buffer")
        for name, parameter in model.named_parameters()
    }
    return {name: buffer for name, buffer in buffers.items() if buffer is not None}


def _write(target: Path, tensors: list[dict[str, Tensor]], state: dict[str, Any]) -> None:
    aside = target.with_name(f".{target.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        try:
            for content, name in zip(tensors, _FILES, strict=False):
                save_file(content, aside / name)
        except SafetensorError as error:
            raise OSError(f"{error}") from None
        (aside / "state.json").write_text(json.dumps(state, indent=1))
        manifest = {name: _sha256(aside / name) for name in _FILES}
        (aside / "manifest.json").write_text(json.dumps(manifest, indent=1))
        for path in (*aside.iterdir(), aside):
            _sync(path)
        if target.exists():  # of a later step than the one resumed from, or damaged
            shutil.rmtree(target)
        os.replace(aside, target)
        _sync(target.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a run's ``checkpoints`` folder, oldest first."""
    return sorted(folder.glob("step-*"))


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The newest whole checkpoint and its state; raises InputError if there is none."""
    damage = [f"there is no checkpoint in {folder}"]
    for path in reversed(list_checkpoints(folder)):
        try:
            return path, verify_checkpoint(path)
        except InputError as error:
            log.warning("%s", error)
            damage.insert(0, str(error))
    raise InputError(damage[0])


def verify_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a whole checkpoint; raises InputError that names what is missing or altered."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        for name in _FILES:
            if _sha256(path / name) != manifest[name]:
                raise InputError(f"the checkpoint {path} is damaged: {name} was altered")
        state = json.loads((path / "state.json").read_text())
        return {**state, "config": dict(state["config"])}
    except OSError as error:
        raise InputError(
            f"cannot read the checkpoint {path}: {error.filename}: {error.strerror}"
        ) from None
    except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError):
        raise InputError(f"the checkpoint {path} is damaged: its manifest is not valid") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint's folder, in the local form.

    Raises InputError when their file is not whole.
    """
    with _tensors(path / "model.safetensors") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@torch.no_grad()
def load_checkpoint(path: Path, state: dict[str, Any], trainer: Trainer) -> None:
    """Fill the trainer: its state, and this rank's slices of weights and momentum.

    Raises InputError when the checkpoint is of another net.
    """
    towers, parameters = trainer.model.towers, dict(trainer.model.named_parameters())
    with _tensors(path / "model.safetensors") as file:
        _check_same_net(path, trainer.model, file)
        for name, parameter in parameters.items():
            parameter.copy_(towers.shard(name, file.get_tensor(name)))
    with _tensors(path / "optimizer.safetensors") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            part = towers.shard(name, file.get_tensor(name))
            buffer = torch.empty_like(parameters[name]).copy_(part)
            trainer.optimizer.state[parameters[name]]["momentum_buffer"] = buffer
    trainer.load_state(state["trainer"])


def load_tensor(path: Path, name: str) -> Tensor:
    """One parameter of a checkpoint, in the local form; raises InputError if it has none."""
    with _tensors(path / "model.safetensors") as file:
        tensor: Tensor = file.get_tensor(name)
        return tensor


@contextmanager
def _tensors(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is not a whole safetensors file: {error}") from None


def _check_same_net(path: Path, model: AlexNet, file: Any) -> None:
    expected = {
        name: list(model.towers.full_shape(name, parameter.shape))
        for name, parameter in model.named_parameters()
    }
    found = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    for name in expected | found:
        if expected.get(name) != found.get(name):
            raise InputError(
                f"the checkpoint {path} is of another net: its {name} has shape "
                f"{found.get(name)}, this net's has {expected.get(name)}"
            )
