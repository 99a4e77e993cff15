"""Images that ``prepare.py`` has decoded and resized, read back as they are."""

import math
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import ReportedError
from data import Split
from data.arrays import Header, read_array, read_header
from data.packed.index import PackedIndex, Shard, read_index

MOST_OPEN = 64
"""Shards kept open at once: an epoch reads from few at a time, and a process may open 1024."""
REMEDY = "prepare the images anew"


class Packed:
    """RGB images of the folder that ``prepare.py`` made, squares of the size chosen there.

    Opening it checks the index, the labels and the form and length of every file, not their sums,
    which ``prepare.py --verify`` does. Files are read, not mapped: as fast from the page cache, and
    a failing disk is an error instead of a dead process.

    Raises ReportedError when anything is missing, or not as the index says.
    """

    channels = 3
    decodes = True
    block = 256

    def __init__(self, split: Split, folder: Path | None) -> None:
        if folder is None:
            raise ReportedError("packed needs data.folder, the folder that prepare.py made")
        index = read_index(folder)
        self.classes: Sequence[str] = index.classes
        self.height = self.width = index.plan.size
        self.labels = _labels(folder, split, index)
        self.shards = [folder / shard.file for shard in index.splits[split].shards]
        self.offsets = [_offset(folder, shard, index) for shard in index.splits[split].shards]
        counts = [shard.images for shard in index.splits[split].shards]
        self.starts = np.cumsum([0, *counts])
        self._open: dict[int, _OpenFile] = {}
        self._opening = threading.Lock()

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, size, size) uint8 and labels (B,) int64 at ``indices`` (B,).

        The images are in channels-last memory, as they are stored. They are read in the order in
        which they lie on the disk. Raises ReportedError when a file has changed since it was
        opened.
        """
        shape = (len(indices), self.height, self.width, self.channels)
        images = torch.empty(shape, dtype=torch.uint8)
        rows = images.flatten(1).numpy()
        positions = indices.numpy()
        shards = np.searchsorted(self.starts, positions, side="right") - 1
        places = positions - self.starts[shards]
        order, shards, places = np.argsort(positions).tolist(), shards.tolist(), places.tolist()
        for number in order:
            self._read_image(shards[number], places[number], rows[number])
        return images.permute(0, 3, 1, 2), self.labels[indices]

    def _read_image(self, shard: int, place: int, row: "np.ndarray[Any, Any]") -> None:
        """Fill ``row`` with the bytes of an image."""
        file, offset = self._file(shard), self.offsets[shard] + place * row.nbytes
        done = 0
        while done < row.nbytes:
            try:
                count = os.preadv(file.handle, [row[done:].data], offset + done)
            except OSError as error:
                raise ReportedError(
                    f"{self.shards[shard]} cannot be read ({error.strerror}): see to its disk"
                ) from None
            if not count:
                raise ReportedError(f"{self.shards[shard]} has become shorter: prepare it anew")
            done += count

    def _file(self, shard: int) -> "_OpenFile":
        with self._opening:  # for several threads read
            if shard not in self._open:
                if len(self._open) == MOST_OPEN:
                    del self._open[next(iter(self._open))]  # the one opened first
                try:
                    self._open[shard] = _OpenFile(self.shards[shard])
                except OSError as error:
                    raise ReportedError(
                        f"{self.shards[shard]} cannot be opened ({error.strerror}): see to its disk"
                    ) from None
            return self._open[shard]


class _OpenFile:
    """A file's handle, closed when nobody holds this any more."""

    def __init__(self, path: Path) -> None:
        self.handle = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            os.close(self.handle)


def _offset(folder: Path, shard: Shard, index: PackedIndex) -> int:
    """Where the pixels of a shard begin, in bytes; ReportedError if it is not as the index says."""
    size = index.plan.size
    shape = shard.images, size, size, 3
    return _checked_header(folder / shard.file, shape, np.dtype(np.uint8)).offset


def _labels(folder: Path, split: Split, index: PackedIndex) -> Tensor:
    """The labels of a split, (N,) int64; ReportedError if they do not fit the index."""
    path = folder / index.splits[split].labels.file
    _checked_header(path, (index.splits[split].images,), np.dtype(np.int64))
    labels = torch.from_numpy(read_array(path))
    if labels.min() < 0 or labels.max() >= len(index.classes):
        raise ReportedError(
            f"{path} has labels outside of the index's {len(index.classes)} classes: {REMEDY}"
        )
    return labels


def _checked_header(path: Path, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> Header:
    """The header of a file; ReportedError unless it and the file's length are as the index says."""
    try:
        header, length = read_header(path), path.stat().st_size
    except (OSError, ValueError) as error:
        raise ReportedError(f"{path} is not a whole NumPy array ({error}): {REMEDY}") from None
    whole = header.offset + math.prod(shape) * dtype.itemsize
    if header[:3] != (shape, False, dtype) or length != whole:
        raise ReportedError(
            f"{path} holds {header.dtype} {header.shape} in {length} bytes, and the index says "
            f"{dtype} {shape}: {REMEDY}"
        )
    return header
