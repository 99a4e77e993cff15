"""List the image files of a folder with their splits and classes."""

import hashlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension

from common.errors import ReportedError
from data import Split
from data.image_folder import SPLIT_FOLDERS, ImageFolder
from data.loading import epoch_order
from data.packed.val_labels import read_val_labels, stem_of

MISSING = -1
"""Length of a file that a link names and that does not exist."""


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
    """List ``folder``/train/CLASS and ``folder``/val/CLASS, or test/CLASS.

    With ``val_labels`` the test images lie in ``folder``/val itself and that file lists their
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
        _check_not_flat(folder)
        samples = ImageFolder("test", folder, 1).samples
    return Source(
        folder,
        train.classes,
        {"train": _files(folder, shuffled), "test": _files(folder, samples)},
    )


def _files(folder: Path, samples: Sequence[tuple[str, int]]) -> list[SourceFile]:
    return [
        SourceFile(os.path.relpath(path, folder), label, _length(path)) for path, label in samples
    ]


def _length(path: str) -> int:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return MISSING
    except OSError as error:
        raise ReportedError(f"{path} cannot be read ({error.strerror}): check its disk") from None
    if not stat.S_ISREG(found.st_mode):
        raise ReportedError(f"{path} is a pipe or a device, not a file: remove it")
    return found.st_size


def _flat_samples(folder: Path, val_labels: Path, classes: Sequence[str]) -> list[tuple[str, int]]:
    """Paths and labels of the images in ``folder``/val, sorted by name.

    Raises ReportedError unless ``val_labels`` lists exactly these images.
    """
    root, labels = folder / "val", read_val_labels(val_labels, classes)
    names = _images_in(root)
    if unknown := [name for name in names if stem_of(name) not in labels]:
        raise ReportedError(
            f"{val_labels} has no class for {len(unknown)} of the images in {root}, the first is "
            f"{unknown[0]}: add their lines or remove the images"
        )
    if absent := sorted(set(labels) - set(map(stem_of, names))):
        raise ReportedError(
            f"{root} lacks {len(absent)} of the images in {val_labels}, the first is {absent[0]}: "
            "add the images or remove their lines"
        )
    return [(str(root / name), labels[stem_of(name)]) for name in names]


def _check_not_flat(folder: Path) -> None:
    """Raise ReportedError if the test images lie outside class folders: that needs an option."""
    found = [folder / name for name in SPLIT_FOLDERS["test"] if (folder / name).is_dir()]
    if found and not any(path.is_dir() for path in found[0].iterdir()) and _images_in(found[0]):
        raise ReportedError(
            f"the images in {found[0]} are not in class folders: make these, or put the images in "
            f"{folder / 'val'} and name a list of their classes with --val-labels"
        )


def _images_in(root: Path) -> list[str]:
    """Sorted names of the image files in ``root`` itself; raises ReportedError without ``root``."""
    try:
        names = sorted(os.listdir(root))
    except OSError as error:
        raise ReportedError(
            f"{root} cannot be listed ({error.strerror}): put the images of --val-labels there"
        ) from None
    return [name for name in names if has_file_allowed_extension(name, IMG_EXTENSIONS)]
