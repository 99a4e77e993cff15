"""Checkpoints in the local layout, whatever mesh wrote them; nothing pickled.

A checkpoint is a folder ``step-00000123`` with ``model.safetensors``, ``optimizer.safetensors``,
``state.json`` and ``manifest.json`` (SHA-256 of the others). It is written aside, synced and
renamed, so a folder under its final name is whole.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.alexnet import AlexNet
from model.errors import InputError

_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


def save_checkpoint(
    folder: Path,
    model: AlexNet,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    *,
    writes: bool,
    keep: int,
) -> Path:
    """Write ``folder/step-N``, N = ``state["step"]``, then prune all but the newest ``keep``.

    Every tower of the replica that writes must call it; only the rank with ``writes`` touches
    the disk. Raises InputError when the disk refuses.
    """
    weights = _local_form(model, dict(model.named_parameters()))
    momentum = _local_form(model, _momentum(model, optimizer))
    target = folder / f"step-{state['step']:08d}"
    if writes:
        try:
            _write(target, weights, momentum, state)
        except OSError as error:
            raise InputError(f"cannot write the checkpoint {target}: {error.strerror}") from None
        for old in list_checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    return target


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


def _write(
    target: Path, weights: dict[str, Tensor], momentum: dict[str, Tensor], state: dict[str, Any]
) -> None:
    aside = target.with_name(f".{target.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        try:
            save_file(weights, aside / "model.safetensors")
            save_file(momentum, aside / "optimizer.safetensors")
        except SafetensorError as error:
            raise OSError(None, f"writing failed ({error})") from None
        (aside / "state.json").write_text(json.dumps(state, indent=1))
        manifest = {name: _sha256(aside / name) for name in _FILES}
        (aside / "manifest.json").write_text(json.dumps(manifest, indent=1))
        for path in (*aside.iterdir(), aside):
            _sync(path)
        if target.exists():
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
    """The newest checkpoint and its state; raises InputError when there is none or it is damaged."""
    found = list_checkpoints(folder)
    if not found:
        raise InputError(f"there is no checkpoint in {folder} to resume from")
    return found[-1], verify_checkpoint(found[-1])


def verify_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a whole checkpoint; raises InputError that names what is missing or altered."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        for name in _FILES:
            if _sha256(path / name) != manifest[name]:
                raise InputError(f"the checkpoint {path} is damaged: {name} was altered")
        return dict(json.loads((path / "state.json").read_text()))
    except OSError as error:
        raise InputError(
            f"cannot read the checkpoint {path}: {error.filename}: {error.strerror}"
        ) from None
    except (KeyError, json.JSONDecodeError):
        raise InputError(f"the checkpoint {path} is damaged: its manifest is not valid") from None


@torch.no_grad()
def load_checkpoint(path: Path, model: AlexNet, optimizer: torch.optim.Optimizer | None) -> None:
    """Fill the model, and the optimiser's momentum, with this rank's slices.

    Raises InputError when the checkpoint is of another net.
    """
    parameters = dict(model.named_parameters())
    with safe_open(path / "model.safetensors", framework="pt") as file:
        _check_same_net(path, model, parameters, file)
        for name, parameter in parameters.items():
            parameter.copy_(model.towers.shard(name, file.get_tensor(name)))
    if optimizer is None:
        return
    with safe_open(path / "optimizer.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            parameter = parameters[name]
            part = model.towers.shard(name, file.get_tensor(name))
            buffer = torch.empty_like(parameter).copy_(part)
            optimizer.state[parameter]["momentum_buffer"] = buffer


def _check_same_net(path: Path, model: AlexNet, parameters: dict[str, Any], file: Any) -> None:
    expected = {
        name: list(model.towers.full_shape(name, parameter.shape))
        for name, parameter in parameters.items()
    }
    found = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    for name in expected | found:
        if expected.get(name) != found.get(name):
            raise InputError(
                f"the checkpoint {path} is of another net: its {name} has shape "
                f"{found.get(name)}, this net's has {expected.get(name)}"
            )
