"""Draw the first layer's kernels, tower by tower: figure 3 of the paper, from any weights.

  python kernels.py runs/fashion kernels.png
  python kernels.py runs/fashion/checkpoints/step-00000705 kernels.png
  python kernels.py alexnet.pth kernels.png

For nets that read RGB it counts, in each tower, the kernels that respond to color (more than half
of their energy lies outside the grey axis), grey ones, which respond to brightness, and those that
are still noise. For two towers it says how likely chance parts color from grey as much: the
probability of a table as uneven as this one if the same kernels were dealt to the towers at random
(Fisher's exact test).
"""

import argparse
import logging

from launch.program import ArgumentParser, run_program

from common.errors import ReportedError
from common.files import home_path
from comparison.statistics import chance_of
from recording.kernels import draw_kernels, in_words, kinds_of_towers
from recording.source import read_source

log = logging.getLogger(__name__)


def main() -> int:
    """Draw and count the kernels; returns the exit status."""
    arguments = parse_arguments()
    if arguments.picture.suffix != ".png":
        raise ReportedError(f"cannot write {arguments.picture}: its name must end in .png")
    weights = read_source(arguments.source).weights
    conv1 = weights.tensors["conv1.weight"]
    draw_kernels(conv1, weights.towers, arguments.picture, str(weights.source))
    kinds = kinds_of_towers(conv1, weights.towers)
    for words in in_words(kinds):
        log.info("%s", words)
    if (chance := chance_of([(each.color, each.grey) for each in kinds])) is not None:
        log.info("by chance alone the towers would differ as much with p = %.2g", chance)
    log.info("%d kernels in %s", len(conv1), arguments.picture)
    return 0


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add(
        "source",
        type=home_path,
        metavar="SOURCE",
        help="a checkpoint, a run's folder, or a file of weights",
    )
    add("picture", type=home_path, metavar="PICTURE", help="the PNG file to write")
    return parser.parse_args()


if __name__ == "__main__":
    run_program(main, most_ranks=1)
