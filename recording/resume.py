"""Opens a run: a new one, with given weights or without, or one to continue."""

import logging
from pathlib import Path
from typing import Any

from launch.console import log_to_file
from launch.world import launch_marks
from model.initialization import fill
from recording.checkpoint import list_checkpoints, newest_checkpoint
from recording.folder import Attempt, RunFolder
from recording.snapshots import load_checkpoint, trained_on
from recording.source import (
    OTHER_CHECKPOINTS,
    check_channels,
    read_source,
    warn_of_other_names,
)
from recording.totals import Totals
from training.config import Config
from training.settings import check_same_run
from training.trained_on import check_same_data
from training.trainer import Trainer

log = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds in which the processes of the attempt before must end."""

Saved = tuple[Path, dict[str, Any]]


def open_run(trainer: Trainer, *, resume: bool) -> tuple[RunFolder, Path | None, Totals]:
    """(the run's folder, its newest checkpoint or None, its totals so far); loads the trainer.

    1. A run that this launch has begun continues in its folder, from its newest checkpoint if it
       has one.
    2. Else, with ``resume``, the newest run of the configuration's name continues from its newest
       checkpoint, whatever mesh wrote it.
    3. Else a new run begins, from the configuration's ``weights`` if given.

    Raises ReportedError if there is no checkpoint to resume, if it or the weights are damaged or of
    another net, or if the configuration or the data would not continue the run.
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
        check_same_data(checkpoint.parents[1], state, trained_on(trainer))
        load_checkpoint(checkpoint, state, trainer)
        totals = Totals.read(state["totals"])
    folder = mesh.from_main(lambda: _begin(folder, trainer, marks))
    return folder, checkpoint, totals


def _find(
    config: Config, marks: set[str], *, resume: bool
) -> tuple[RunFolder | None, Saved | None]:
    """(the folder to continue in, the checkpoint to continue from); None if there is none."""
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
    """Load the configuration's ``weights``, without fc8 if the data have other classes."""
    config, classes = trainer.config, trainer.model.fc8.out_features
    if config.weights is None:
        return
    weights = read_source(config.weights).check_fits(config)
    trainer.mesh.check_equal(str(weights.source), *OTHER_CHECKPOINTS)
    check_channels(weights, trainer.preprocess.channels, config)
    tensors = weights.tensors
    if weights.classes != classes:
        log.info(
            "%s has %d classes, and the data have %d: fc8 keeps its initial values",
            *(weights.source, weights.classes, classes),
        )
        tensors = {name: t for name, t in tensors.items() if not name.startswith("fc8.")}
    elif trainer.classes:
        warn_of_other_names(weights, trainer.classes)
    fill(trainer.model, tensors)


def _begin(folder: RunFolder | None, trainer: Trainer, marks: set[str]) -> RunFolder:
    """Note this attempt in ``folder``, or in a new one, and open its log."""
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
