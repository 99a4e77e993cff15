"""A map of the best placement over batch and link, as plan.py predicts it.

  python examples/best.py
  python examples/best.py --device p100 --ranks 16 --png best.png
  python examples/best.py --machine runs/machine.json --ranks 4 precision=bf16

Every rank is a node of its own, so all that travels takes the link.
"""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from launch.program import ArgumentParser, run_program

from tabulate import tabulate

from common.arguments import whole
from common.errors import ReportedError
from common.files import home_path
from examples.lesson import load
from examples.pictures import draw_map, save
from planning.devices import DEVICES, known_machine
from planning.job import planned
from planning.machine import read_machine
from planning.sweep import Space

log = logging.getLogger(__name__)
BATCHES = (32, 256, 2048, 8192, 32768)
GIGABYTES = (0.125, 0.5, 1.25, 3, 6, 12.5, 25, 50, 100)  # 1.25: 10 Gbit/s Ethernet


def main() -> int:
    """Print the map; returns the exit status."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=DEVICES, default="a100")
    parser.add_argument("--machine", type=home_path, metavar="FILE", help="one that check.py wrote")
    parser.add_argument("--ranks", type=whole(2, 1024), default=8)
    parser.add_argument("--png", type=home_path, metavar="FILE", help="draw the map, too")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="as for train.py")
    arguments = parser.parse_intermixed_args()
    config = load(["batch_size=32", *arguments.overrides])
    job = planned(config)
    machine = (
        read_machine(arguments.machine, config.precision)
        if arguments.machine
        else known_machine(arguments.device, config.precision, job, 1, "nvlink", "100gbe")
    )
    space = Space(job, machine.in_nodes_of(1), arguments.ranks)
    if not space.machine.connects(space.ranks):
        raise ReportedError(f"{arguments.machine} has no links: measure two ranks or more")
    names = [[best(space, batch, rate * 1e9) for batch in BATCHES] for rate in GIGABYTES]
    rows = [(f"{rate:g} GB/s", *row) for rate, row in zip(GIGABYTES, names, strict=True)]
    log.info("the best placement on %d × %s, by link and global batch", space.ranks, machine.device)
    log.info("(/4: groups of 4 ranks share a classifier; empty: the memory is too small)\n")
    log.info("%s", tabulate(rows, ("", *map(str, BATCHES))))
    if arguments.png:
        save(draw_map(names, GIGABYTES, BATCHES), arguments.png)
    return 0


def best(space: Space, batch: int, rate: float) -> str:
    """The best placement, for a global batch over links of a rate in bytes/s; "" if none fits.

    Behind the name of a hybrid are the ranks of a classifier, if they are not all.
    """
    if batch < space.ranks:
        return ""
    here = space.with_batch(batch).with_links(
        lambda link: link.model_copy(update={"bandwidth": rate, "shared": rate})
    )
    found = here.best
    if not found.fits:
        return ""
    plan = found.candidate.plan
    is_whole = plan.feeds == 1 or plan.classifier.replicas == 1
    return plan.placement if is_whole else f"{plan.placement}/{plan.classifier.shards}"


if __name__ == "__main__":
    run_program(main, most_ranks=1)
