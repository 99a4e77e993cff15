"""Draw the first layer's kernels, tower by tower: figure 3 of the paper, from any checkpoint.

  python kernels.py runs/fashion kernels.png
  python kernels.py runs/fashion/checkpoints/step-00000705 kernels.png

Of kernels that read colour it says, for each tower, how many look for colour (more than half of
their energy lies outside the grey axis), how many for light, and how many are still noise.
"""

import argparse
import logging
import os
import signal
from pathlib import Path

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C just ends the imports

from training.checkpoint import load_tensor, newest_checkpoint, verify_checkpoint
from training.folder import RunFolder
from training.kernels import draw_kernels, in_words, kinds_of_towers
from training.program import ArgumentParser, run_program

log = logging.getLogger(__name__)


def main() -> int:
    """Draw and count; returns the exit status."""
    arguments = parse_arguments()
    run = RunFolder(arguments.source)
    if os.path.isdir(run.checkpoints):
        checkpoint, state = newest_checkpoint(run.checkpoints)
    else:
        checkpoint, state = arguments.source, verify_checkpoint(arguments.source)
    towers = state["config"]["towers"]
    conv1 = load_tensor(checkpoint, "conv1.weight")
    draw_kernels(conv1, towers, arguments.picture, str(checkpoint))
    for number, kinds in enumerate(kinds_of_towers(conv1, towers)):
        log.info("tower %d: %s", number, in_words(kinds))
    log.info("%d kernels in %s", len(conv1), arguments.picture)
    return 0


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="the folder of a run, or of a checkpoint")
    parser.add_argument("picture", type=Path, help="the PNG file to write")
    return parser.parse_args()


if __name__ == "__main__":
    run_program(main)
