"""What a data set offers, and the table of those that a configuration can name."""

import os.path
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from common.errors import ReportedError
from data import Split
from data.fashion_mnist import FashionMNIST
from data.image_folder import ImageFolder
from data.packed.reader import Packed
from data.synthetic import Synthetic
from data.textures import Textures


class Dataset(Protocol):
    """Labelled images of one size, read by their positions.

    ``decodes`` is True where reading costs enough for workers to pay off, threads that read at the
    same time. ``block`` is how many neighbouring images an epoch should visit at about the same
    time (see ``epoch_order``); 0 where any order is as fast.
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

        Raises ReportedError when an image cannot be read.
        """
        ...


def _synthetic(split: Split, stored_size: int, length: int) -> Synthetic:
    length = _test_length(split, length)
    return Synthetic(split, length, classes=10, channels=3, height=stored_size, width=stored_size)


def _test_length(split: Split, length: int) -> int:
    return length if split == "train" else max(1, length // 4)


DATASETS: dict[str, Callable[[Split, Path | None, int, int], Dataset]] = {
    "fashion_mnist": lambda split, folder, size, length: FashionMNIST(split, folder),
    "image_folder": lambda split, folder, size, length: ImageFolder(split, folder, size),
    "packed": lambda split, folder, size, length: Packed(split, folder),
    "synthetic": lambda split, folder, size, length: _synthetic(split, size, length),
    "textures": lambda split, folder, size, length: Textures(
        split, _test_length(split, length), size
    ),
}


def open_dataset(
    name: str,
    split: Split,
    folder: Path | None = None,
    stored_size: int = 256,
    synthetic_length: int = 2048,
) -> Dataset:
    """Open one split of the data set called ``name`` in ``DATASETS``.

    ``folder`` holds the files of fashion_mnist (without it they are looked for, then downloaded)
    and of image_folder and packed (which need it). Images of packed are as they were prepared,
    those of the other sets squares of ``stored_size`` pixels. ``synthetic_length`` is the number of
    made-up training images; there are a quarter as many for testing.

    Raises ReportedError for an unknown name, and when the files are missing or not as expected.
    """
    if name not in DATASETS:
        raise ReportedError(f"there is no data set '{name}': name one of {', '.join(DATASETS)}")
    return DATASETS[name](
        split, folder and Path(os.path.expanduser(folder)), stored_size, synthetic_length
    )
