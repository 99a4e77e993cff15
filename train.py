"""Train AlexNet: `torchrun --nproc_per_node=2 train.py`, or `./launch.sh`.

From configuration to summary, top to bottom. The same code runs in one process, on replicas, and
on towers split over ranks; the mesh is all that differs.
"""

import argparse
import logging
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from distributed.mesh import Mesh, launched_world, plan_mesh
from training.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from training.config import dump_config, load_config
from training.folder import RunFolder
from training.input import epoch_batches, make_preprocess, open_sets, test_batches
from training.loop import Trainer, build_model, why_not_compiled
from training.meters import peak_memory
from training.program import run_program
from training.reporter import describe, start_reporter

log = logging.getLogger(__name__)


DEFAULT_CONFIG = Path(__file__).parent / "configs" / "fashion.yaml"


def main() -> None:
    arguments = parse_arguments()
    config = load_config(arguments.config, arguments.overrides)
    rank, world_size = launched_world()
    plan = plan_mesh(world_size, config.towers, config.placement)
    if arguments.print_config:
        print(dump_config(config) if rank == 0 else "", end="")
        return

    stop = stop_on_signals()
    mesh = Mesh.start(plan)
    mesh.from_main(lambda: open_sets(config) and None)  # one rank downloads what is missing
    train_set, test_set = open_sets(config)
    steps_per_epoch = -(-len(train_set) // config.batch_size)
    steps = min(config.epochs * steps_per_epoch, config.max_steps or sys.maxsize)

    model = build_model(config, mesh, len(train_set.classes), train_set.channels)
    preprocess = make_preprocess(config.data, train_set.channels)
    trainer = Trainer(config, mesh, model, preprocess, steps)
    folder = mesh.from_main(lambda: RunFolder.create(config.runs, config.name, arguments.resume))
    state: dict[str, Any] = {"step": 0, "run_id": None, "test": {}}
    if arguments.resume:
        checkpoint, state = mesh.from_main(lambda: newest_checkpoint(folder.checkpoints))
        load_checkpoint(checkpoint, model, trainer.optimizer)
        trainer.schedule.load_state(state["schedule"])

    facts = {
        "variant": config.variant,
        "towers": config.towers,
        "placement": plan.placement,
        "world_size": world_size,
        "global_batch": config.batch_size,
    }
    reporter = None
    if mesh.is_main:
        folder.start_log()
        log.info(describe(config, model, plan.picture(), steps))
        if config.compile and (reason := why_not_compiled(mesh)):
            log.info("torch.compile was left off: %s", reason)
        reporter = start_reporter(config, folder, facts, state, steps)

    def save() -> Path:
        kept = {
            "step": step,
            "schedule": trainer.schedule.state(),
            "config": config.model_dump(mode="json"),
            "run_id": reporter.tracker.run_id if reporter else None,
            "test": reporter.last_test if reporter else {},
        }
        return save_checkpoint(
            folder.checkpoints,
            model,
            trainer.optimizer,
            kept,
            writes=mesh.is_main,
            keep=config.keep_checkpoints,
        )

    first = step = saved = state["step"]
    stopping = False
    while step < steps and not stopping:
        epoch, done = divmod(step, steps_per_epoch)
        for batch, count in epoch_batches(config, mesh, train_set, trainer.watch, epoch, done):
            totals = trainer.step(batch, epoch, count)
            step += 1
            metrics, stopping = trainer.report(totals, stop.is_set(), step)
            if reporter:
                reporter.step(step, step / steps_per_epoch, count, metrics)
            stopping = stopping or step == steps
            if stopping:
                break
            if step % config.checkpoint_every == 0:
                save()
                saved = step
                if reporter:
                    reporter.restart_clock()
        if step % steps_per_epoch == 0 or step == steps:
            tested = trainer.evaluate(test_batches(config, mesh, test_set))
            trainer.schedule.after_evaluation(1 - tested["test_top1"])
            if reporter:
                reporter.evaluation(step, step / steps_per_epoch, tested)
                reporter.restart_clock()
    checkpoint = save() if step > saved or step == first else folder.checkpoints
    facts["bytes_exchanged_per_step"] = trainer.exchanged_bytes() // max(step - first, 1)
    facts["peak_memory_bytes"] = int(max(mesh.gather(peak_memory(mesh.device))))
    if reporter:
        reporter.finish({**facts, "steps": step, "checkpoint": str(checkpoint)})


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", type=Path, default=DEFAULT_CONFIG, help="a YAML file (default: %(default)s)"
    )
    parser.add_argument("--resume", action="store_true", help="continue the run of that name")
    parser.add_argument("--print-config", action="store_true", help="print the config and stop")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="change a setting")
    return parser.parse_intermixed_args()


def stop_on_signals() -> threading.Event:
    """An event that Ctrl-C and SIGTERM set: the run ends after the step, with a checkpoint."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


if __name__ == "__main__":
    run_program(main)
