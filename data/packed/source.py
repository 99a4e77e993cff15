"""List the image files of a folder with their splits and classes."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from common.errors import ReportedError
from data import Split
from data.image_folder import ImageFolder
from data.listing import images_below, length_of
from data.loading import epoch_order
from data.packed.val_labels import read_val_labels, stem_of


class SourceFile(NamedTuple):
    """An image's path in the source, its label, and its length in bytes or ``MISSING``."""

    path: str
    label: int
    bytes: int


@dataclass(frozen=True)
class Source:
    """The images to pack, in that order."""

    folder: Path
    classes: Sequence[str]
    splits: dict[Split, list[SourceFile]]

    @property
    def images(self) -> int:
        """Number of files in both splits."""
        return sum(map(len, self.splits.values()))

    @property
    def digest(self) -> str:
        """The SHA-256 sum of the list of classes, files and their lengths."""
        lines = [*self.classes, *(f"{each}" for files in self.splits.values() for each in files)]
        return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def list_source(folder: Path, val_labels: Path | None = None) -> Source:
    """List ``folder``/train/CLASS and test/CLASS, val/CLASS or validation/CLASS.

    With ``val_labels`` the test images lie anywhere below ``folder``/val, and that file lists their
    classes. Training images are shuffled, always in the same way, so that neighbours differ in
    class; test images are sorted by class, or by name.

    Raises ReportedError when a folder, a class or the class of an image is missing.
    """
    train = ImageFolder("train", folder, 1)
    order = epoch_order(0, 0, len(train)).tolist()
    shuffled = [train.samples[number] for number in order]
    if val_labels:
        samples = _flat_samples(folder, val_labels, train.classes)
    else:
        samples = ImageFolder("test", folder, 1).samples
    return Source(
        folder,
        train.classes,
        {"train": _files(folder, shuffled), "test": _files(folder, samples)},
    )


def _files(folder: Path, samples: Sequence[tuple[str, int]]) -> list[SourceFile]:
    return [
        SourceFile(os.path.relpath(path, folder), label, length_of(path)) for path, label in samples
    ]


def _flat_samples(folder: Path, val_labels: Path, classes: Sequence[str]) -> list[tuple[str, int]]:
    """Paths and labels of the images below ``folder``/val, sorted by name.

    Raises ReportedError unless ``val_labels`` lists exactly these images.
    """
    root, labels = _flat_folder(folder), read_val_labels(val_labels, classes)
    paths = images_below(root)
    if unknown := [path for path in paths if stem_of(path) not in labels]:
        raise ReportedError(
            f"{val_labels} has no class for {len(unknown)} of the images in {root}, the first is "
            f"{os.path.relpath(unknown[0], root)}: add their lines or remove the images"
        )
    if absent := sorted(set(labels) - set(map(stem_of, paths))):
        raise ReportedError(
            f"{root} lacks {len(absent)} of the images in {val_labels}, the first is {absent[0]}: "
            "add the images or remove their lines"
        )
    return [(path, labels[stem_of(path)]) for path in paths]


def _flat_folder(folder: Path) -> Path:
    """The folder of the images of --val-labels; raises ReportedError if there is none."""
    for name in ("val", "validation"):
        if os.path.isdir(folder / name):
            return folder / name
    raise ReportedError(
        f"there is no folder {folder / 'val'}: put the images of --val-labels there"
    )
