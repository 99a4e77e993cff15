"""Draw the first layer's kernels, tower by tower: figure 3 of the paper, from any weights.

  python kernels.py runs/fashion kernels.png
  python kernels.py runs/fashion/checkpoints/step-00000705 kernels.png
  python kernels.py alexnet.pth kernels.png
  python kernels.py runs/seed-0 runs/seed-1 runs/seed-2 kernels.png --chance chance.png

For nets that read RGB it counts, in each tower, the kernels that respond to color (more than half
of their energy lies outside the grey axis), grey ones, which respond to brightness, and those that
are still noise. For two towers it says how likely chance parts color from grey as much: the
probability of a table as uneven as this one if the same kernels were dealt to the towers at random
(Fisher's exact test), and that of several nets together (Fisher's method).
"""

import argparse
import logging

from launch.program import ArgumentParser, run_program

from common.errors import ReportedError, printable
from common.files import home_path
from comparison.dealing import Table, chance_of, chance_of_all, draw_dealing
from recording.kernels import Panel, draw_kernels, in_words, kinds_of_towers, panels_of
from recording.source import read_source

log = logging.getLogger(__name__)


def main() -> int:
    """Draw and count the kernels; returns the exit status."""
    arguments = parse_arguments()
    for picture in filter(None, (arguments.picture, arguments.chance)):
        if picture.suffix != ".png":
            raise ReportedError(f"cannot write {picture}: its name must end in .png")
    panels: list[Panel] = []
    tables: dict[str, Table] = {}
    for source in dict.fromkeys(arguments.sources):
        weights = read_source(source).weights
        conv1, name = weights.tensors["conv1.weight"], printable(str(source))
        panels += [(f"{name}, {words}", part) for words, part in panels_of(conv1, weights.towers)]
        kinds = kinds_of_towers(conv1, weights.towers)
        tables[name] = [(each.color, each.grey) for each in kinds]
        log.info("%s, %d kernels", name, len(conv1))
        for words in in_words(kinds):
            log.info("  %s", words)
    chances = {name: chance_of(table) for name, table in tables.items()}
    known = {name: chance for name, chance in chances.items() if chance is not None}
    if arguments.chance and not known:
        raise ReportedError(
            f"cannot draw {arguments.chance}: it needs two towers that read RGB, with kernels "
            "that are not all noise"
        )
    tell_chances(known)
    draw_kernels(panels, arguments.picture, "kernels of conv1")
    if arguments.chance:
        draw_dealing({name: tables[name] for name in known}, arguments.chance)
    return 0


def tell_chances(chances: dict[str, float]) -> None:
    """Say how likely chance alone parts colour from grey as much, for each net and for all."""
    for name, chance in chances.items():
        log.info("%s: by chance alone the towers would differ as much with p = %.2g", name, chance)
    if len(chances) > 1:
        log.info("all together: p = %.2g", chance_of_all(list(chances.values())))


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add(
        "sources",
        nargs="+",
        type=home_path,
        metavar="SOURCE",
        help="a checkpoint, a run's folder, or a file of weights",
    )
    add("picture", type=home_path, metavar="PICTURE", help="the PNG file to write")
    add(
        "--chance",
        type=home_path,
        metavar="PICTURE",
        help="draw the chances of each number of colour kernels, too",
    )
    return parser.parse_args()


if __name__ == "__main__":
    run_program(main, most_ranks=1)
