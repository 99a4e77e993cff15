"""Read packed images at any position."""

import hashlib
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
"""Limit for open shards: an epoch reads from few at a time, and a process may open 1024 files."""
REMEDY = "prepare the images again"


class Packed:
    """RGB images that prepare.py packed into ``folder``, squares of the size chosen there.

    Opening the folder checks the index, the labels, and the header and length of every file;
    ``prepare.py --verify`` checks the content. Files are read, not mapped: that is as fast from the
    page cache, and a failing disk raises an error instead of ending the process.

    Raises ReportedError when a file is missing or differs from the index.
    """

    channels = 3
    decodes = True
    block = 256

    def __init__(self, split: Split, folder: Path) -> None:
        index = read_index(folder)
        self.classes: Sequence[str] = index.classes
        self.height = self.width = index.plan.size
        self.labels = _labels(folder, split, index)
        self.shards = [folder / shard.file for shard in index.splits[split].shards]
        stored = index.splits[split]
        self.sums = [each.sha256 for each in (*stored.shards, stored.labels)]
        self.offsets = [_offset(folder, shard, index) for shard in index.splits[split].shards]
        counts = [shard.images for shard in index.splits[split].shards]
        self.starts = np.cumsum([0, *counts])
        self._open: dict[int, _OpenFile] = {}
        self._opening = threading.Lock()

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self) -> str:
        """The sums of the shards and of the labels, in short."""
        return hashlib.sha256("".join(self.sums).encode()).hexdigest()

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, size, size) uint8 and labels (B,) int64 at ``indices`` (B,).

        The images are in channels-last memory, as stored, and are read in the order of the disk.
        Raises ReportedError when a file cannot be read or has become shorter.
        """
        shape = (len(indices), self.height, self.width, self.channels)
        images = torch.empty(shape, dtype=torch.uint8)
        rows = images.flatten(1).numpy()  # (B, size · size · 3)
        positions = indices.numpy()
        shards = np.searchsorted(self.starts, positions, side="right") - 1
        places = positions - self.starts[shards]
        order, shards, places = np.argsort(positions).tolist(), shards.tolist(), places.tolist()
        for number in order:
            self._read_image(shards[number], places[number], rows[number])
        return images.permute(0, 3, 1, 2), self.labels[indices]

    def _read_image(self, shard: int, place: int, row: "np.ndarray[Any, Any]") -> None:
        """Fill ``row`` (size · size · 3,) with the image at ``place`` of ``shard``."""
        file, offset = self._file(shard), self.offsets[shard] + place * row.nbytes
        done = 0
        while done < row.nbytes:
            try:
                count = os.preadv(file.handle, [row[done:].data], offset + done)
            except OSError as error:
                raise ReportedError(
                    f"{self.shards[shard]} cannot be read ({error.strerror}): check its disk"
                ) from None
            if not count:
                raise ReportedError(f"{self.shards[shard]} has become shorter: {REMEDY}")
            done += count

    def _file(self, shard: int) -> "_OpenFile":
        with self._opening:  # several threads read
            if shard not in self._open:
                if len(self._open) == MOST_OPEN:
                    del self._open[next(iter(self._open))]  # the one opened first
                try:
                    self._open[shard] = _OpenFile(self.shards[shard])
                except OSError as error:
                    raise ReportedError(
                        f"{self.shards[shard]} cannot be opened ({error.strerror}): check its disk"
                    ) from None
            return self._open[shard]


class _OpenFile:
    """A file's handle, closed with the last reference: another thread may still read from it."""

    def __init__(self, path: Path) -> None:
        self.handle = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            os.close(self.handle)


def _offset(folder: Path, shard: Shard, index: PackedIndex) -> int:
    """Bytes before the pixels of a shard; raises ReportedError if it differs from the index."""
    size = index.plan.size
    shape = shard.images, size, size, 3
    return _checked_header(folder / shard.file, shape, np.dtype(np.uint8)).offset


def _labels(folder: Path, split: Split, index: PackedIndex) -> Tensor:
    """Labels (N,) int64 of a split; raises ReportedError if they differ from the index."""
    path = folder / index.splits[split].labels.file
    _checked_header(path, (index.splits[split].images,), np.dtype(np.int64))
    labels = torch.from_numpy(read_array(path))
    if labels.min() < 0 or labels.max() >= len(index.classes):
        raise ReportedError(
            f"{path} has labels outside the {len(index.classes)} classes of the index: {REMEDY}"
        )
    return labels


def _checked_header(path: Path, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> Header:
    """The header of a file; raises ReportedError if it or the file's length is another."""
    try:
        header, length = read_header(path), path.stat().st_size
    except (OSError, ValueError) as error:
        raise ReportedError(f"{path} is not a complete NumPy array ({error}): {REMEDY}") from None
    whole = header.offset + math.prod(shape) * dtype.itemsize
    if header[:3] != (shape, False, dtype) or length != whole:
        raise ReportedError(
            f"{path} holds {header.dtype} {header.shape} in {length} bytes, and the index says "
            f"{dtype} {shape}: {REMEDY}"
        )
    return header
