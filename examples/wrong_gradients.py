"""Mistakes that people make when they divide a net, and what shows each of them.

  torchrun --nproc_per_node=2 examples/wrong_gradients.py

Each is made on purpose in this project's own code, and three steps of it are held against the same
steps in one process, in fp64. Errors are relative; about 1e-15 is rounding. The loss of a step is
computed before its update, and the second step has a batch of an odd number of images.
"""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from launch.program import ArgumentParser, run_program

from tabulate import tabulate
from torch import Tensor

from checking.steps import Trainings, full_tensors, relative_error, small_config, take_steps
from common.errors import ReportedError
from common.files import home_path
from distributed.mesh import Mesh
from examples.mistakes import MISTAKES, Mistake
from examples.pictures import ROUNDING, draw_errors, save
from launch.world import launched_world
from training.trainer import Trainer

log = logging.getLogger(__name__)
KINDS = ("loss 1", "gradients 1", "loss 2", "loss 3")


def main() -> int:
    """Make every mistake; returns the exit status, 1 if one of them does not show."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--png", type=home_path, metavar="FILE", help="draw the table, too")
    arguments = parser.parse_args()
    ranks = launched_world().size
    if ranks not in (2, 4):
        raise ReportedError(f"two towers are divided over 2 or 4 ranks here, not {ranks}")
    trainings = Trainings(Mesh.start(small_config(ranks, "fp64").plan(ranks)))
    errors = [errors_of(mistake, trainings) for mistake in MISTAKES]
    rows = [(m.placement, m.name, *e.values()) for m, e in zip(MISTAKES, errors, strict=True)]
    log.info("%s", tabulate(rows, ("placement", "mistake", *errors[0]), floatfmt=".0e"))
    if arguments.png and trainings.mesh.is_main:
        named = [f"{mistake.placement}: {mistake.name}" for mistake in MISTAKES]
        save(draw_errors(dict(zip(named, errors, strict=True))), arguments.png)
    seen = [max(each.values()) > ROUNDING for each in errors]
    return 0 if seen == [mistake.name != "none" for mistake in MISTAKES] else 1


def errors_of(mistake: Mistake, trainings: Trainings) -> dict[str, float]:
    """The largest relative errors of what rank 0 computes with this mistake."""
    config = small_config(
        trainings.ranks,
        "fp64",
        placement=mistake.placement,
        towers=2,
        overlap_communication=False,  # the plain collectives are patched
    )
    right, right_gradients = take_three(trainings.start_alone(config))
    with mistake.made:
        wrong, wrong_gradients = take_three(trainings.start(config))
    gradients = [relative_error(wrong_gradients[name], t) for name, t in right_gradients.items()]
    losses = [abs(each / expected - 1) for each, expected in zip(wrong, right, strict=True)]
    return dict(zip(KINDS, (losses[0], max(gradients), *losses[1:]), strict=True))


def take_three(trainer: Trainer) -> tuple[list[float], dict[str, Tensor]]:
    """The losses of three steps, and the full gradients of the first."""
    (first,) = take_steps(trainer, 1)
    gradients = {k: t for k, t in full_tensors(trainer).items() if k.startswith("gradient")}
    return [first.loss, *(step.loss for step in take_steps(trainer, 2))], gradients


if __name__ == "__main__":
    run_program(main)
