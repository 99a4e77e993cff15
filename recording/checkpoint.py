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
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from typing_extensions import Self

from common.errors import ReportedError
from common.files import open_plain, writing
from model.alexnet import AlexNet
from recording.totals import Totals
from training.settings import upgrade
from training.trainer import Trainer
from weights.safetensors import refusal_of_disk

log = logging.getLogger(__name__)

MOST_JSON = 2**24
"""Bytes of a state or a manifest."""
_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


class CheckpointWriter:
    """Saves checkpoints while training goes on, which waits only for a copy in memory.

    Every rank must have one and make the same calls: the towers of the first replica hand their
    slices to rank 0, which alone touches the disk. As a context manager it lets what is being
    written be finished.
    """

    def __init__(self, folder: Path, trainer: Trainer, newest: Path | None) -> None:
        """``newest`` is the checkpoint that the trainer was loaded from, if any."""
        self.folder, self.trainer, self.newest = folder, trainer, newest
        self.thread = ThreadPoolExecutor(1)
        self.writing: Future[Path] | None = None

    def is_due(self, totals: Totals) -> bool:
        """Whether the step just taken ends in a checkpoint."""
        config, trainer = self.trainer.config, self.trainer
        is_best = config.keep_best and totals.best_step == trainer.steps
        return is_best or trainer.is_due(config.checkpoint_every)

    def save(self, totals: Totals) -> None:
        """Begin to write ``folder/step-N`` after N steps, then prune, once the last is written.

        Raises ReportedError on every rank when the disk refused the last one, unless the
        configuration says to go on.
        """
        if not self.trainer.config.keep_checkpoints:
            return
        self.trainer.mesh.from_main(self._end_writing_or_warn)
        state, tensors = self._snapshot(totals)
        if self.trainer.mesh.is_main:
            target = self.folder / _name(self.trainer.steps)
            kept = {_name(totals.best_step)} if self.trainer.config.keep_best else set()
            number = self.trainer.config.keep_checkpoints
            self.writing = self.thread.submit(_write, target, tensors, state, number, kept)

    def finish(self) -> Path | None:
        """Wait for the newest checkpoint; raises ReportedError when the disk refused it."""
        self.newest = self.trainer.mesh.from_main(self._end_writing)
        return self.newest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.shutdown()

    def _snapshot(self, totals: Totals) -> tuple[dict[str, Any], list[dict[str, Tensor]]]:
        trainer = self.trainer
        state = {
            "trainer": trainer.state(),
            "totals": asdict(totals),
            "config": trainer.config.model_dump(mode="json"),
            "classes": list(trainer.classes),
        }
        if trainer.mesh.replica:
            return state, []
        model = trainer.model
        weights, momentum = dict(model.named_parameters()), _momentum(model, trainer.optimizer)
        return state, [_local_form(model, weights), _local_form(model, momentum)]

    def _end_writing(self) -> Path | None:
        if self.writing is not None:
            writing, self.writing = self.writing, None
            self.newest = writing.result()
        return self.newest

    def _end_writing_or_warn(self) -> None:
        try:
            self._end_writing()
        except ReportedError as error:
            if self.trainer.config.write_errors == "stop":
                raise
            log.warning("%s; training goes on without that checkpoint", error)


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _local_form(model: AlexNet, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the tensors in the computer's memory, in the local form."""

    def copy(name: str, tensor: Tensor) -> Tensor:
        whole = model.towers.unshard(name, tensor.detach())
        is_copy = whole.data_ptr() != tensor.data_ptr() and whole.device.type == "cpu"
        if is_copy and whole.is_contiguous():
            return whole
        return torch.empty(whole.shape, dtype=whole.dtype).copy_(whole)

    return {name: copy(name, tensor) for name, tensor in tensors.items()}


def _momentum(model: AlexNet, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    buffers = {
        name: optimizer.state[parameter].get("momentum_buffer")
        for name, parameter in model.named_parameters()
    }
    return {name: buffer for name, buffer in buffers.items() if buffer is not None}


def _write(
    target: Path,
    tensors: list[dict[str, Tensor]],
    state: dict[str, Any],
    number: int,
    kept: set[str],
) -> Path:
    """Write a checkpoint, then remove all but the ``kept`` and the ``number`` newest up to it."""
    for name, tensor in tensors[0].items():
        if not tensor.sum().isfinite():
            raise ReportedError(
                f"{name} is no longer finite, so {target} was not written: start from the last "
                "checkpoint (weights=…) with a lower optimizer.learning_rate"
            )
    with writing(target):
        _write_aside(target, tensors, state)
        all_of_them = list_checkpoints(target.parent)
        newest = [path for path in all_of_them if path.name <= target.name][-number:]
        for path in all_of_them:  # a later one was passed over as damaged
            if path not in newest and path.name not in kept:
                shutil.rmtree(path)
    return target


def _write_aside(target: Path, tensors: list[dict[str, Tensor]], state: dict[str, Any]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(".step-*.part"):  # by a process that was killed
        shutil.rmtree(left)
    aside = target.with_name(f".{target.name}.part")
    try:
        aside.mkdir()
        try:
            for content, name in zip(tensors, _FILES, strict=False):
                save_file(content, aside / name)
        except SafetensorError as error:
            raise refusal_of_disk(error) from None
        (aside / "state.json").write_text(json.dumps(state, indent=1))
        manifest = {name: _sha256(aside / name) for name in _FILES}
        (aside / "manifest.json").write_text(json.dumps(manifest, indent=1))
        for path in (*aside.iterdir(), aside):
            _sync(path)
        if target.exists():  # damaged, or the run was resumed from before it
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
    with open_plain(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a run's ``checkpoints`` folder, oldest first."""
    return sorted(folder.glob("step-*"))


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The newest whole checkpoint and its state; raises ReportedError if there is none."""
    damage = [f"there is no checkpoint in {folder}"]
    for path in reversed(list_checkpoints(folder)):
        try:
            return path, verify_checkpoint(path)
        except ReportedError as error:
            log.warning("%s", error)
            damage.insert(0, str(error))
    raise ReportedError(damage[0])


def verify_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a checkpoint; raises ReportedError that names what is missing or altered."""
    try:
        manifest = _read_json(path / "manifest.json")
        for name in _FILES:
            if _sha256(path / name) != manifest[name]:
                raise ReportedError(f"the checkpoint {path} is damaged: {name} was altered")
        state = _read_json(path / "state.json")
        return {**state, "config": upgrade(dict(state["config"]))}
    except OSError as error:
        raise ReportedError(
            f"cannot read the checkpoint {path}: {error.filename}: {error.strerror}"
        ) from None
    except ReportedError:
        raise
    except (KeyError, TypeError, ValueError, RecursionError):  # the last two: of the parser
        raise ReportedError(
            f"the checkpoint {path} is damaged: its manifest is not valid"
        ) from None


def _read_json(path: Path) -> Any:
    with open_plain(path, MOST_JSON) as file:
        return json.loads(file.read())


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint's folder, in the local form.

    Raises ReportedError when their file is not whole.
    """
    with _tensors(path / "model.safetensors") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@torch.no_grad()
def load_checkpoint(path: Path, state: dict[str, Any], trainer: Trainer) -> None:
    """Fill the trainer: its state, and this rank's slices of weights and momentum.

    Raises ReportedError when the checkpoint is of another net.
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
    try:
        trainer.load_state(state["trainer"])
    except (LookupError, TypeError, ValueError):
        raise ReportedError(f"the checkpoint {path} is damaged: its state is not valid") from None


@contextmanager
def _tensors(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise ReportedError(f"{path} is not a whole safetensors file: {error}") from None


def _check_same_net(path: Path, model: AlexNet, file: Any) -> None:
    expected = {
        name: list(model.towers.full_shape(name, parameter.shape))
        for name, parameter in model.named_parameters()
    }
    found = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    for name in expected | found:
        if expected.get(name) != found.get(name):
            raise ReportedError(
                f"the checkpoint {path} is of another net: its {name} has shape "
                f"{found.get(name)}, this net's has {expected.get(name)}"
            )
