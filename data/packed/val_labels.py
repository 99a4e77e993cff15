"""The classes of images that lie in one folder, from a text file."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from common.errors import ReportedError
from common.files import open_plain

EXAMPLES = (
    "Kaggle's LOC_val_solution.csv, or lines such as 'ILSVRC2012_val_00000001.JPEG n01751748'"
)
MOST_BYTES = 2**26
HEADER = "imageid,predictionstring"


def read_val_labels(path: Path, classes: Sequence[str]) -> dict[str, int]:
    """For the name of each image, without folder and suffix, the number of its class.

    A line is NAME,CLASS or NAME CLASS; of Kaggle's, the class is the first word behind the comma.
    The class is the name of a training folder.

    Raises ReportedError for lines of another form, unknown classes, and a name with two classes.
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
            raise ReportedError(f"{path} gives {stem} two classes: leave one of its lines")
    if not labels:
        raise ReportedError(f"{path} names no image: give {EXAMPLES}")
    return labels


def stem_of(name: str) -> str:
    """A file's name without folder and suffix, as both sides spell it alike."""
    return PurePosixPath(name).stem


def _lines(path: Path) -> list[str]:
    try:
        with open_plain(path, MOST_BYTES) as file:
            text = file.read().decode("utf-8-sig")
    except OSError as error:
        raise ReportedError(f"{path} cannot be read ({error.strerror}): give {EXAMPLES}") from None
    except UnicodeDecodeError:
        raise ReportedError(f"{path} is not a text file: give {EXAMPLES}") from None
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
            f"{path} holds numbers, as the devkit's ILSVRC2012_validation_ground_truth.txt does: "
            f"which class a number means is not in it, so give {EXAMPLES}"
        )
    shown = line if len(line) <= 60 else f"{line[:60]}…"
    return (
        f"line {position} of {path} ('{shown}') names no class that has a training folder: give "
        f"{EXAMPLES}"
    )
