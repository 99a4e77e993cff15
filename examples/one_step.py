"""One training step, tensor by tensor: what rank 0 computes, and what it sends.

  torchrun --nproc_per_node=2 examples/one_step.py
  torchrun --nproc_per_node=2 examples/one_step.py placement=hybrid classifier_scheme=c
  torchrun --nproc_per_node=4 examples/one_step.py batch_size=8 overlap_communication=false

Lines are in the order of time. Bytes are those that the rank has sent since the line before.
"""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from launch.program import ArgumentParser, run_program

from tabulate import tabulate

from distributed.picture import draw_plan
from examples.diary import Diary
from examples.lesson import load, start, start_mesh
from planning.job import planned

log = logging.getLogger(__name__)


def main() -> int:
    """Take one step and print it; returns the exit status."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="as for train.py")
    config = load(parser.parse_args().overrides)
    mesh = start_mesh(config)
    trainer, batches = start(config, mesh)
    batch, diary = next(batches), Diary(trainer)
    mesh.timer.take()
    result = trainer.train_step(batch).result()
    diary.end(result.cost.bytes_at)
    log.info("%s\n", draw_plan(mesh.plan, config.form, config.batch_size))
    headings = ("pass", "layer", "reads", "weight", "gives", "bytes sent")
    log.info("%s\n", tabulate(diary.lines, headings))

    expected = planned(config).bytes_sent(mesh.plan)
    rows = [(at, result.cost.bytes_at[at], count) for at, count in expected.items()]
    log.info("%s", tabulate(rows, ("boundary", "bytes counted", "formula"), intfmt=","))
    log.info("\nloss %.4f", result.loss)
    return 0


if __name__ == "__main__":
    run_program(main)
