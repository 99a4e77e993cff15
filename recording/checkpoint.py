"""The format of a checkpoint: a folder that any mesh can write and any other can resume from.

``step-00000123`` holds
  model.safetensors       the parameters, under their names
  optimizer.safetensors   the optimiser's tensors that have their parameter's shape, under names
                          such as ``momentum_buffer/conv1.weight`` or ``exp_avg/conv1.weight``
  state.json              all else: step, schedule, totals, the optimiser's scalars, configuration
  manifest.json           SHA-256 of the other files
All tensors are full (unsharded), and nothing is pickled. A checkpoint is written aside, synced and
renamed, so a folder with its final name is complete.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.errors import ReportedError
from common.files import open_plain, remove, replacing, sha256, writing
from training.settings import upgrade
from weights.safetensors import refusal_of_disk

log = logging.getLogger(__name__)

MOST_JSON = 2**24
"""Bytes of a state or a manifest."""
MODEL, OPTIMIZER, STATE, MANIFEST = (
    *("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"),
)
FILES = (MODEL, OPTIMIZER, STATE)


class Content(NamedTuple):
    """The content of a checkpoint: full tensors on the CPU, and plain values."""

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def checkpoint_name(step: int) -> str:
    """The name of the folder for the checkpoint after ``step``."""
    return f"step-{step:08d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a run's ``checkpoints`` folder, oldest first."""
    return sorted(folder.glob("step-*"))


def write_checkpoint(target: Path, content: Content) -> None:
    """Write a checkpoint; raises ReportedError if the disk refuses, and then leaves nothing."""
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.glob(".step-*.part"):  # by a process that was killed
            remove(left)
    with replacing(target) as aside:
        aside.mkdir()
        try:
            save_file(content.model, aside / MODEL)
            save_file(content.optimizer, aside / OPTIMIZER)
        except SafetensorError as error:
            raise refusal_of_disk(error) from None
        (aside / STATE).write_text(json.dumps(content.state, indent=1))
        sums = {name: sha256(aside / name) for name in FILES}
        (aside / MANIFEST).write_text(json.dumps(sums, indent=1))


def prune_checkpoints(newest: Path, number: int, kept: set[str]) -> None:
    """Remove all but the checkpoints ``kept`` and the ``number`` newest ones up to ``newest``."""
    checkpoints = list_checkpoints(newest.parent)
    recent = [path for path in checkpoints if path.name <= newest.name][-number:]
    with writing(newest):
        for path in checkpoints:  # a later one is damaged: the run was resumed from before it
            if path not in recent and path.name not in kept:
                remove(path)


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The newest whole checkpoint and its state; raises ReportedError if there is none."""
    damage = [f"there is no checkpoint in {folder}: start the run anew, or name another run"]
    for path in reversed(list_checkpoints(folder)):
        try:
            return path, verify_checkpoint(path)
        except ReportedError as error:
            log.warning("%s", error)
            damage.insert(0, str(error))
    raise ReportedError(damage[0])


def verify_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a checkpoint, its configuration with today's keys.

    Raises ReportedError that names the file that is missing or altered.
    """
    try:
        sums = _read_json(path / MANIFEST)
        for name in FILES:
            if sha256(path / name) != sums[name]:
                raise ReportedError(f"the checkpoint {path} is damaged: {name} was altered")
        state = _read_json(path / STATE)
        return {**state, "config": upgrade(dict(state["config"]))}
    except OSError as error:
        raise ReportedError(
            f"cannot read the checkpoint {path}: {error.filename}: {error.strerror}"
        ) from None
    except ReportedError:
        raise
    except (KeyError, TypeError, ValueError, RecursionError):  # the last two: of the parser
        raise ReportedError(
            f"the checkpoint {path} is damaged: its {MANIFEST} or {STATE} is not valid"
        ) from None


def _read_json(path: Path) -> Any:
    with open_plain(path, MOST_JSON) as file:
        return json.loads(file.read())


@contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """A safetensors file, open for reading; raises ReportedError if it is not whole."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise ReportedError(f"{path} is not a whole safetensors file: {error}") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The full tensors of the parameters; raises ReportedError if their file is not whole."""
    with open_tensors(path / MODEL) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
