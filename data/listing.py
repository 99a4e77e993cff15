"""The images of a folder, by split and class."""

import logging
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from common.errors import ReportedError
from data import Split
from data.decoding import has_image_suffix

log = logging.getLogger(__name__)

TRAIN = "train"
TEST = ("test", "val", "validation")
"""Folders that may hold the test images. Many data sets have a test/ without labels."""
LEFT_BY_SYSTEMS = (
    *("@eadir", "#recycle", "__macosx"),
    *("lost+found", "$recycle.bin", "system volume information"),
)
"""Folders that file servers and operating systems make anywhere, in lower case."""

MISSING = -1
"""Length of a file that a link names and that does not exist."""


def is_hidden(name: str) -> bool:
    """True for files and folders that are not the user's own images, at every level."""
    return name.startswith(".") or name.lower() in LEFT_BY_SYSTEMS


def find_split(folder: Path, split: Split) -> tuple[Path, list[str]]:
    """The folder of a split in ``folder``, and the sorted names of its classes.

    The classes are those of train/ or, without it, of the test folder that has most. The test
    images are in the first folder of ``TEST`` that has these classes.

    Raises ReportedError if there is no such folder.
    """
    train = folder / TRAIN
    if split == "train" or os.path.exists(train):
        classes = _classes(train)
        if not classes:
            raise ReportedError(f"{train} has no class folders: make a folder for each class there")
    else:
        classes = max(map(_classes, _test_folders(folder)), key=len)
    return train if split == "train" else _test_folder(folder, classes), classes


def _test_folders(folder: Path) -> list[Path]:
    places = [folder / name for name in TEST]
    if found := [place for place in places if os.path.isdir(place)]:
        return found
    raise ReportedError(
        f"there is no folder {' nor '.join(map(str, places))}: make one with a folder for each "
        "class"
    )


def _test_folder(folder: Path, classes: Sequence[str]) -> Path:
    """The first test folder with these classes; raises ReportedError if none has them."""
    found = {root: set(_classes(root)) for root in _test_folders(folder)}
    expected = set(classes)
    for root, names in found.items():
        if names and names == expected:
            if root != (first := next(iter(found))):
                log.info("the test images are those of %s: %s has other folders", root, first)
            return root
    nearest = max(found, key=lambda root: len(found[root] & expected))
    if not found[nearest] & expected:
        _refuse_unsorted(folder, found)
    differing = sorted(found[nearest] ^ expected)
    raise ReportedError(
        f"the class folders of {nearest} differ from those of training in "
        f"{', '.join(differing[:5])}{', …' * (len(differing) > 5)}: make both the same"
    )


def _refuse_unsorted(folder: Path, roots: Iterable[Path]) -> NoReturn:
    raise ReportedError(
        f"{' and '.join(map(str, roots))} without the class folders of training cannot be tested "
        f"on: sort the images into a folder for each class, or put them into {folder / 'val'} and "
        "name a list of their classes with prepare.py --val-labels"
    )


def _classes(root: Path) -> list[str]:
    """Sorted names of the class folders in ``root``."""
    try:
        names = [entry.name for entry in os.scandir(root) if entry.is_dir()]
    except FileNotFoundError:
        raise ReportedError(
            f"there is no folder {root}: make one with a folder for each class"
        ) from None
    except OSError as error:
        _refuse_listing(error)
    return sorted(name for name in names if not is_hidden(name))


def list_samples(root: Path, classes: Sequence[str]) -> list[tuple[str, int]]:
    """Paths and labels in the order of the classes; raises ReportedError for an empty class."""
    samples = []
    for label, name in enumerate(classes):
        paths = images_below(root / name)
        if not paths:
            raise ReportedError(f"{root / name} has no images: add some or remove the folder")
        samples += [(path, label) for path in paths]
    return samples


def images_below(folder: Path) -> list[str]:
    """Sorted paths of the images in a folder and its subfolders.

    Raises ReportedError when a folder cannot be listed or is reached twice.
    """
    found, known = [], set()
    for place, folders, names in os.walk(folder, onerror=_refuse_listing, followlinks=True):
        real = os.path.realpath(place)
        if real in known:
            raise ReportedError(
                f"{place} leads to {real}, whose images are already listed for this class: remove "
                "the link"
            )
        known.add(real)
        folders[:] = [name for name in folders if not is_hidden(name)]
        found.append((place, sorted(name for name in names if not is_hidden(name))))
    paths = (os.path.join(place, name) for place, names in sorted(found) for name in names)
    return [path for path in paths if has_image_suffix(path)]


def length_of(path: str) -> int:
    """The length of a file in bytes, or ``MISSING``; raises ReportedError if it is no file."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return MISSING
    except OSError as error:
        raise ReportedError(f"{path} cannot be read ({error.strerror}): check its disk") from None
    if not stat.S_ISREG(found.st_mode):
        raise ReportedError(f"{path} is a pipe or a device, not a file: remove it")
    return found.st_size


def _refuse_listing(error: OSError) -> NoReturn:
    raise ReportedError(f"{error.filename} cannot be listed ({error.strerror}): make it readable")
