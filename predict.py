"""Classify pictures with a trained net.

  python predict.py cat.jpg dog.jpg --weights runs/fashion         the newest checkpoint of a run
  python predict.py cat.jpg --weights alexnet.pth --top 3 --json

Pictures are preprocessed as in training, and probabilities averaged over its test_views. A picture
that cannot be read is named and the others are classified; the exit status is then 2.
"""

import argparse
import json
import logging
from typing import Any

from launch.program import ArgumentParser, run_program

from common.arguments import whole
from common.errors import ReportedError, printable
from common.files import home_path
from recording.source import read_source
from training.prediction import Guess, Predictor

log = logging.getLogger(__name__)

NAME_WIDTH = 80
NO_FOLDER = "data.folder=."
"""Satisfies configurations that need a folder of images, which is never opened."""


def main() -> int:
    """Classify each picture; returns the exit status."""
    arguments = parse_arguments()
    source = read_source(arguments.weights)
    config = source.config(arguments.config, [NO_FOLDER])
    predictor = Predictor(source.check_fits(config), config)
    outcomes: list[dict[str, Any]] = []
    status = 0
    for image in arguments.images:
        try:
            guesses = predictor.top(str(image), arguments.top)
        except ReportedError as error:
            log.error("error: %s", error)
            outcomes.append({"image": str(image), "error": str(error)})
            status = ReportedError.status
            continue
        outcomes.append({"image": str(image), "classes": [guess._asdict() for guess in guesses]})
        if not arguments.json:
            log.info("%s\n%s", printable(str(image)), as_text(guesses))
    if arguments.json:
        log.info("%s", json.dumps(outcomes, indent=1))
    return status


def as_text(guesses: list[Guess]) -> str:
    """One line of at most 100 columns for each class."""
    return "\n".join(
        f"  {guess.probability:8.2%}  {printable(' '.join(guess.name.split()))[:NAME_WIDTH]}"
        for guess in guesses
    )


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("images", type=home_path, nargs="+", metavar="IMAGE", help="a picture")
    add(
        "--weights",
        type=home_path,
        required=True,
        metavar="SOURCE",
        help="a checkpoint, a run's folder, or a .safetensors, .pth, .caffemodel, .npz or .onnx",
    )
    add("--top", type=whole(), default=5, metavar="N", help="classes to print, default: 5")
    add("--json", action="store_true", help="print one JSON document")
    add(
        "--config",
        type=home_path,
        metavar="FILE",
        help="a YAML file whose settings replace those of SOURCE",
    )
    return parser.parse_intermixed_args()


if __name__ == "__main__":
    run_program(main, most_ranks=1)
