"""Train AlexNet: one network, its towers and replicas placed on a mesh of processes.

  ./launch.sh                             the default job, on every GPU or on two CPU processes
  torchrun --nproc_per_node=2 train.py    the same, where the environment is ready
  python train.py --config configs/d2l.yaml towers=2 optimizer.learning_rate=0.02

What a run leaves lies in runs/NAME: config.yaml, log.txt, metrics.jsonl, checkpoints/, curves.png
and summary.json. Ctrl-C and SIGTERM end a run with a checkpoint, from which --resume continues it
on this mesh or another.
"""

import argparse
import logging
from pathlib import Path

from launch.program import ArgumentParser, run_program
from launch.signals import StopRequest

from common.files import home_path
from data.datasets import Dataset
from distributed.device import peak_memory
from distributed.mesh import Mesh
from launch.world import launched_world
from recording.reporter import Reporter, start_reporter
from recording.resume import open_run
from recording.snapshots import CheckpointWriter
from training.batches import count_steps, local_batches, make_preprocess, open_sets, test_batches
from training.settings import dump_config, load_config, settings_help
from training.trained_on import describe_data
from training.trainer import Trainer, build_model

log = logging.getLogger(__name__)

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "fashion.yaml"


def main() -> int:
    """Train from configuration to summary; returns the exit status."""
    arguments = parse_arguments()
    config = load_config(arguments.config, arguments.overrides)
    plan = config.plan(launched_world().size)
    if arguments.print_config:
        log.info("%s", dump_config(config).rstrip())
        return 0

    stop = StopRequest()
    mesh = Mesh.start(plan, config.timeout, share_devices=config.share_devices)
    train_set, test_set = open_sets(config.data, mesh)
    model = build_model(config, mesh, len(train_set.classes), train_set.channels)
    preprocess = make_preprocess(config, train_set.channels)
    steps = count_steps(config, len(train_set))
    data = mesh.from_main(lambda: describe_data(config.data, train_set, test_set))
    trainer = Trainer(config, mesh, model, preprocess, steps, train_set.classes, data)
    folder, checkpoint, totals = open_run(trainer, resume=arguments.resume)

    with (
        start_reporter(trainer, folder, totals) as reporter,
        CheckpointWriter(folder.checkpoints, trainer, checkpoint) as writer,
    ):
        if trainer.owes_evaluation:
            with reporter.paused():
                evaluate(trainer, test_set, stop, reporter)
                writer.save(reporter.totals)
        stopped_by = stop.told
        for local in local_batches(config, mesh, train_set, trainer.steps, trainer.total_steps):
            reporter.trained(trainer.train_step(local))
            if trainer.is_due(config.compare_ranks_every):
                with reporter.paused():
                    reporter.compared(trainer.steps, trainer.compare_ranks())
            if trainer.owes_evaluation:
                with reporter.paused():
                    evaluate(trainer, test_set, stop, reporter)
            stopped_by = stop.agreed(mesh.start_largest)
            if stopped_by or writer.is_due(reporter.totals):
                with reporter.paused():
                    writer.save(reporter.totals)
            if stopped_by:
                break
        peak = mesh.largest(peak_memory(mesh.device))
        reporter.finish(trainer.steps, writer.finish(), peak, trainer.conv1())
    is_done = trainer.steps == trainer.total_steps and not trainer.owes_evaluation
    return 128 + stopped_by if stopped_by and not is_done else 0


def evaluate(trainer: Trainer, test_set: Dataset, stop: StopRequest, reporter: Reporter) -> None:
    """Evaluate; if asked to stop meanwhile, leave that to whoever resumes."""
    batches = test_batches(trainer.config, trainer.mesh, test_set)
    metrics = trainer.evaluate(batches, lambda: stop.agreed(trainer.mesh.start_largest))
    if metrics is not None:
        reporter.tested(trainer.steps, trainer.epochs_done, metrics)


def parse_arguments() -> argparse.Namespace:
    """The command line; ``--help`` lists every setting."""
    parser = ArgumentParser(
        description=__doc__,
        epilog=f"settings and their defaults, in YAML or as key.sub=value:\n{settings_help()}",
    )
    parser.add_argument(
        "--config",
        type=home_path,
        default=DEFAULT_CONFIG,
        metavar="FILE",
        help="a YAML file of settings (default: configs/fashion.yaml)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue the newest run of the config's name"
    )
    parser.add_argument("--print-config", action="store_true", help="print the config and stop")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="change a setting")
    return parser.parse_intermixed_args()


if __name__ == "__main__":
    run_program(main)
