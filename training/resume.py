"""Where a run begins: in a folder of its own, or where it was left."""

from collections.abc import Callable
from pathlib import Path

from training.checkpoint import load_checkpoint, newest_checkpoint
from training.config import Config
from training.folder import RunFolder
from training.loop import Trainer
from training.settings import check_same_run
from training.totals import Totals


def open_run(trainer: Trainer, *, resume: bool) -> tuple[RunFolder, Path | None, Totals]:
    """The run's folder, its newest checkpoint (None in a new run) and its totals so far.

    With ``resume`` the trainer goes on from that checkpoint, whatever mesh wrote it. Raises
    InputError on every rank when there is none, when it is damaged, or when the configuration
    would not continue its run.
    """
    config, mesh = trainer.config, trainer.mesh
    if not resume:
        return mesh.from_main(lambda: _claimed(RunFolder.create, config)), None, Totals()
    folder = mesh.from_main(lambda: _claimed(RunFolder.newest, config))
    checkpoint, state = mesh.from_main(lambda: newest_checkpoint(folder.checkpoints))
    check_same_run(config, state["config"])
    load_checkpoint(checkpoint, state, trainer)
    return folder, checkpoint, Totals(**state["totals"])


def _claimed(find: Callable[[Path, str], RunFolder], config: Config) -> RunFolder:
    folder = find(config.runs, config.name)
    folder.claim()
    return folder
