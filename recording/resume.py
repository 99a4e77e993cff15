"""Where a run begins: in a folder of its own, from given weights or not, or where it was left."""

import logging
from pathlib import Path
from typing import Any

from launch.console import log_to_file
from launch.world import launch_marks
from model.initialization import fill
from recording.checkpoint import list_checkpoints, load_checkpoint, newest_checkpoint
from recording.folder import Attempt, RunFolder
from recording.source import check_channels, read_source
from recording.totals import Totals
from training.config import Config
from training.settings import check_same_run
from training.trainer import Trainer

log = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds for the processes of the attempt before to end."""

Saved = tuple[Path, dict[str, Any]]


def open_run(trainer: Trainer, *, resume: bool) -> tuple[RunFolder, Path | None, Totals]:
    """The run's folder, its newest checkpoint (None in a new run) and its totals so far.

    A run that this very launch has begun goes on from its newest checkpoint, or begins again in its
    folder without one. Otherwise, with ``resume``, the newest of the name does, whatever mesh wrote
    it. A new run starts from the configuration's ``weights``, if there are any.

    Raises ReportedError when there is no checkpoint to resume, when it or the weights are damaged
    or of another net, or when the configuration would not continue its run.
    """
    config, mesh = trainer.config, trainer.mesh
    marks = mesh.union(launch_marks())
    folder, saved = mesh.from_main(lambda: _find(config, marks, resume=resume))
    checkpoint, totals = None, Totals()
    if saved is None:
        _start_from_weights(trainer)
    else:
        checkpoint, state = saved
        check_same_run(config, state["config"])
        load_checkpoint(checkpoint, state, trainer)
        totals = Totals.read(state["totals"])
    folder = mesh.from_main(lambda: _begin(folder, trainer, marks))
    return folder, checkpoint, totals


def _find(
    config: Config, marks: set[str], *, resume: bool
) -> tuple[RunFolder | None, Saved | None]:
    """The folder to go on in, and the checkpoint to go on from, if any."""
    if folder := RunFolder.of_launch(config.runs, config.name, marks):
        folder.claim(PATIENCE)
        whole = list_checkpoints(folder.checkpoints)
        return folder, newest_checkpoint(folder.checkpoints) if whole else None
    if resume:
        folder = RunFolder.newest(config.runs, config.name)
        folder.claim()
        return folder, newest_checkpoint(folder.checkpoints)
    return None, None


def _start_from_weights(trainer: Trainer) -> None:
    """Where the data have another number of classes, fc8 keeps its initial values."""
    config, classes = trainer.config, trainer.model.fc8.out_features
    if config.weights is None:
        return
    weights = read_source(config.weights).check_fits(config)
    check_channels(weights, trainer.preprocess.channels, config)
    tensors = weights.tensors
    if weights.classes != classes:
        log.info(
            "%s tells %d classes apart, and the data have %d: fc8 begins anew",
            *(weights.source, weights.classes, classes),
        )
        tensors = {name: t for name, t in tensors.items() if not name.startswith("fc8.")}
    fill(trainer.model, tensors)


def _begin(folder: RunFolder | None, trainer: Trainer, marks: set[str]) -> RunFolder:
    """Open the log of ``folder``, or of a new one, and note in it whose it is."""
    number = 1
    if folder is None:
        folder = RunFolder.create(trainer.config.runs, trainer.config.name)
        folder.claim()
    else:
        number = folder.last_attempt().number + 1
    folder.begin(Attempt(number, sorted(marks)))
    log_to_file(folder.log)
    if number > 1:
        log.info("continuing %s after step %d, attempt %d", folder.path, trainer.steps, number)
    return folder
