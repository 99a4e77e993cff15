"""Say what is on pictures, with a trained net.

  python predict.py cat.jpg dog.jpg --weights runs/fashion         the newest checkpoint of a run
  python predict.py cat.jpg --weights alexnet.pth --top 3 --json

Pictures are prepared as those of the training were, and averaged over its test_views. A picture
that cannot be read is named, and the others are gone on with; the exit status is 2 then.
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from launch.program import ArgumentParser, run_program

from common.errors import ReportedError, printable
from recording.source import read_source
from training.prediction import Guess, Predictor

log = logging.getLogger(__name__)

NAME_WIDTH = 80


def main() -> int:
    """Predict each picture; returns the exit status."""
    arguments = parse_arguments()
    predictor = Predictor(read_source(arguments.weights), arguments.config)
    outcomes: list[dict[str, Any]] = []
    status = 0
    for image in arguments.images:
        try:
            guesses = predictor.top(image, arguments.top)
        except ReportedError as error:
            log.error("error: %s", error)
            outcomes.append({"image": image, "error": str(error)})
            status = ReportedError.status
            continue
        outcomes.append({"image": image, "classes": [guess._asdict() for guess in guesses]})
        if not arguments.json:
            log.info("%s\n%s", printable(image), as_text(guesses))
    if arguments.json:
        log.info("%s", json.dumps(outcomes, indent=1, ensure_ascii=False))
    return status


def as_text(guesses: list[Guess]) -> str:
    """A line for each, of at most 100 columns."""
    return "\n".join(
        f"  {guess.probability:8.2%}  {printable(' '.join(guess.name.split()))[:NAME_WIDTH]}"
        for guess in guesses
    )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="a picture's file")
    add(
        "--weights",
        type=Path,
        required=True,
        metavar="SOURCE",
        help="a checkpoint, a run's folder, or a .safetensors, .pth, .caffemodel or .npz",
    )
    add("--top", type=positive, default=5, metavar="N", help="classes to tell, default: 5")
    add("--json", action="store_true", help="print JSON, in one piece")
    add(
        "--config",
        type=Path,
        metavar="FILE",
        help="a YAML file whose data section says how pictures are prepared, if SOURCE does not",
    )
    return parser.parse_intermixed_args()


def positive(text: str) -> int:
    """A number of at least 1; raises ValueError for others."""
    if int(text) < 1:
        raise ValueError
    return int(text)


if __name__ == "__main__":
    run_program(main, most_ranks=1)
