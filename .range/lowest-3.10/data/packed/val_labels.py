"""Read the classes of images in one folder from a text file."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from common.errors import ReportedError
from common.files import open_plain

EXAMPLES = (
    "Kaggle's LOC_val_solution.csv, or lines such as 'ILSVRC2012_val_00000001.JPEG n01751748'"
)
MOST_BYTES = 2**26
"""Limit for the file; Kaggle's has a few megabytes."""
HEADER = "imageid,predictionstring"


def read_val_labels(path: Path, classes: Sequence[str]) -> dict[str, int]:
    """Read the label of each image, by its name without folder and suffix.

    A line is NAME,CLASS or NAME CLASS, where CLASS is the name of a training folder. In Kaggle's
    file the class is the first word after the comma.

    Raises ReportedError for other lines, unknown classes, and a name with two classes.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    labels: dict[str, int] = {}
    for position, line in enumerate(_lines(path), 1):
        if not line or (position == 1 and line.lower().replace(" ", "") == HEADER):
            continue
        name, known = _split(line, numbers)
        if not name or known not in numbers:
            raise ReportedError(_complaint(path, position, line, known))
        stem = stem_of(name)
        if labels.setdefault(stem, numbers[known]) != numbers[known]:
            raise ReportedError(f"{path} gives {stem} two classes: remove one of its lines")
    if not labels:
        raise ReportedError(f"{path} names no image: use {EXAMPLES}")
    return labels


def stem_of(name: str) -> str:
    """A file's name without folder and suffix, which the list and the folder have in common."""
    return PurePosixPath(name).stem


def _lines(path: Path) -> list[str]:
    try:
        with open_plain(path, MOST_BYTES) as file:
            text = file.read().decode("utf-8-sig")
    except OSError as error:
        raise ReportedError(f"{path} cannot be read ({error.strerror}): use {EXAMPLES}") from None
    except UnicodeDecodeError:
        raise ReportedError(f"{path} is not a text file: use {EXAMPLES}") from None
    return [line.strip() for line in text.splitlines()]


def _split(line: str, numbers: dict[str, int]) -> tuple[str, str]:
    """The name and the class in a line; either may be empty."""
    if "," in line:
        name, _, rest = (part.strip().strip('"') for part in line.partition(","))
        return name, rest if rest in numbers else rest.partition(" ")[0]
    *names, known = line.rsplit(maxsplit=1)
    return "".join(names), known


def _complaint(path: Path, position: int, line: str, known: str) -> str:
    if known.isdigit():
        return (
            f"{path} holds numbers without their classes, like the devkit's "
            f"ILSVRC2012_validation_ground_truth.txt: use {EXAMPLES}"
        )
    shown = line if len(line) <= 60 else f"{line[:60]}…"
    return (
        f"line {position} of {path} ('{shown}') names no class with a training folder: use "
        f"{EXAMPLES}"
    )
