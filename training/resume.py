"""Where a run begins: in a folder of its own, from given weights or not, or where it was left."""

from collections.abc import Callable
from pathlib import Path

from model.weights import fill
from training.checkpoint import load_checkpoint, newest_checkpoint
from training.config import Config
from training.folder import RunFolder
from training.loop import Trainer
from training.settings import check_same_run
from training.source import check_data, read_source
from training.totals import Totals


def open_run(trainer: Trainer, *, resume: bool) -> tuple[RunFolder, Path | None, Totals]:
    """The run's folder, its newest checkpoint (None in a new run) and its totals so far.

    With ``resume`` the trainer goes on from that checkpoint, whatever mesh wrote it; without, it
    starts from the configuration's ``weights``, if there are any. Raises InputError when there is
    no checkpoint, when it or the weights are damaged or of another net, or when the configuration
    would not continue its run.
    """
    config, mesh = trainer.config, trainer.mesh
    if not resume:
        if config.weights:
            weights = read_source(config.weights).check_fits(config)
            check_data(weights, trainer.model.fc8.out_features, trainer.preprocess.channels, config)
            fill(trainer.model, weights.tensors)
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
