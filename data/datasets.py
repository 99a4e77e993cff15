"""The interface of a data set, and the data sets that a configuration can name.

To add a data set, write a class with this interface and add a row.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from data import Split
from data.fashion_mnist import FashionMNIST
from data.image_folder import ImageFolder
from data.packed.reader import Packed
from data.synthetic import Synthetic
from data.textures import Textures


class Dataset(Protocol):
    """Labelled images of one size, read by position.

    ``decodes`` is True if reading takes so long that several reading threads pay off. ``block`` is
    the number of neighbouring images that an epoch should visit at about the same time (see
    ``epoch_order``); 0 if every order is equally fast.
    """

    classes: Sequence[str]
    channels: int
    height: int
    width: int
    decodes: bool
    block: int

    def __len__(self) -> int:
        """The number of images."""
        ...

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) uint8 and labels (B,) int64 at ``indices`` (B,), on the CPU.

        Raises ReportedError if an image cannot be read.
        """
        ...

    def fingerprint(self) -> str:
        """A text that is the same for the same images in the same order, wherever they lie.

        It is cheap: made of names and lengths, or of sums that are stored, not of the contents.
        """
        ...


class Row(NamedTuple):
    """A data set that a configuration can name.

    ``open`` takes the split, ``data.folder``, ``data.stored_size`` and ``data.synthetic_length``.
    ``side`` is the side of its images in pixels; None: ``data.stored_size``, which must be that of
    packed images. ``folder`` says what ``data.folder`` must name; None: it does without a folder.
    """

    open: Callable[[Split, Any, int, int], Dataset]
    side: int | None = None
    folder: str | None = None


def _open_synthetic(split: Split, folder: Path | None, side: int, length: int) -> Synthetic:
    length = _split_length(split, length)
    return Synthetic(split, length, classes=10, channels=3, height=side, width=side)


def _open_textures(split: Split, folder: Path | None, side: int, length: int) -> Textures:
    return Textures(split, _split_length(split, length), side)


def _split_length(split: Split, length: int) -> int:
    return length if split == "train" else max(1, length // 4)


DATASETS = {
    "fashion_mnist": Row(
        lambda split, folder, side, length: FashionMNIST(split, folder), side=FashionMNIST.height
    ),
    "image_folder": Row(
        lambda split, folder, side, length: ImageFolder(split, folder, side),
        folder="a folder with train/ and test/",
    ),
    "packed": Row(
        lambda split, folder, side, length: Packed(split, folder),
        folder="a folder that prepare.py made",
    ),
    "synthetic": Row(_open_synthetic),
    "textures": Row(_open_textures),
}


def open_dataset(
    name: str,
    split: Split,
    folder: Path | None = None,
    stored_size: int = 256,
    synthetic_length: int = 2048,
) -> Dataset:
    """Open one split of the data set ``name``.

    ``folder`` holds the files; fashion_mnist without one looks for them, then downloads them.
    ``stored_size`` is the side of the images in pixels, except for fashion_mnist (28 pixels) and
    packed (as prepared). ``synthetic_length`` is the number of generated training images; there are
    a quarter as many test images.

    Raises ReportedError if files are missing or not as expected.
    """
    return DATASETS[name].open(split, folder, stored_size, synthetic_length)
