"""The cost of each layer of a net: work, weights and activations.

  python examples/layers.py
  python examples/layers.py towers=1
  python examples/layers.py variant=torchvision towers=1 data.size=96 --png layers.png

Work is the multiply-adds of one image's forward pass; activations are the layer's outputs.
"""

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from launch.program import ArgumentParser, run_program

from tabulate import tabulate

from common.files import home_path
from distributed.plan import plan_alone
from examples.lesson import load
from examples.pictures import draw_layers, save
from planning.formulas import parameters_per_rank
from planning.job import planned

log = logging.getLogger(__name__)


def main() -> int:
    """Print the table; returns the exit status."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--png", type=home_path, metavar="FILE", help="draw the shares, too")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="as for train.py")
    arguments = parser.parse_intermixed_args()
    net = planned(load(arguments.overrides)).net
    work, weights = net.macs(), parameters_per_rank(net, plan_alone(net.towers))
    made = {name: shape.outputs * shape.pixels_made for name, shape in net.shapes.items()}
    columns = {"multiply-adds": work, "weights and biases": weights, "activations": made}
    totals = {name: sum(column.values()) for name, column in columns.items()}
    rows = [
        (
            layer,
            shape.reads.name.lower() if net.towers > 1 else "all",
            *(cell(column[layer], totals[name]) for name, column in columns.items()),
        )
        for layer, shape in net.shapes.items()
    ]
    rows.append(("sum", "", *(cell(total, total) for total in totals.values())))
    headings = ("layer", "reads", *columns)
    log.info("%s, %d tower(s), %d px\n", net.name, net.towers, net.size)
    log.info("%s", tabulate(rows, headings, colalign=("left", "left", *["right"] * 3)))
    if arguments.png:
        save(draw_layers(columns), arguments.png)
    return 0


def cell(count: int, total: int) -> str:
    """A count, and its share of the total."""
    return f"{count:,}  {count / total:4.0%}"


if __name__ == "__main__":
    run_program(main, most_ranks=1)
