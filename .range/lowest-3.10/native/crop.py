"""The window of each image, resized, mirrored and standardized in one pass, on the CPU."""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from native.compiler import NAMES, SOURCES, load_kernels, run_kernel

KERNELS = SOURCES / "crop.cpp"
_NUMBERS = ("height", "width", "channels", "resize", "size", "shift_rows", "threads")


class Resizing(NamedTuple):
    """Bilinear interpolation to squares of ``side`` pixels, as crop.cpp reads it.

    ``down`` (side, height) weighs an image's stored rows, ``across`` (width·C, side·C) the numbers
    of a stored line. ``rows`` (side, 2) and ``columns`` (side·C, 2) hold the first and the end of
    the weights that are not 0. All are empty where images are stored at ``side``.
    """

    side: int
    down: Tensor = torch.empty(0)
    across: Tensor = torch.empty(0)
    rows: Tensor = torch.empty(0, dtype=torch.int64)
    columns: Tensor = torch.empty(0, dtype=torch.int64)


def make_resizing(down: Tensor, across: Tensor, channels: int) -> Resizing:
    """The resizing by matrices of the rows (side, height) and of the columns (side, width)."""
    line = torch.kron(across.T.contiguous(), torch.eye(channels))  # (width·C, side·C)
    columns = channels * _bands(across).repeat_interleave(channels, 0)  # (side·C, 2)
    return Resizing(len(down), down, line, _bands(down), columns)


def _bands(matrix: Tensor) -> Tensor:
    """The first and the end of the non-zero numbers in each row: (rows, columns) to (rows, 2)."""
    present = (matrix != 0).int()
    ends = matrix.shape[1] - present.flip(1).argmax(1)
    return torch.stack([present.argmax(1), ends], 1)


class _Crop(ctypes.Structure):
    """The struct Crop of crop.cpp."""

    _fields_ = [("batch", ctypes.c_int64), *((name, ctypes.c_int) for name in _NUMBERS)]


def can_crop(device: torch.device, dtype: torch.dtype) -> bool:
    """True if a compiled kernel exists for images on ``device`` and numbers of ``dtype``."""
    return device.type == "cpu" and dtype in NAMES and load_kernels(KERNELS) is not None


def crop(
    images: Tensor,
    windows: Tensor,
    resizing: Resizing,
    *,
    factors: Tensor,
    shifts: Tensor,
    colors: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """Resize, crop, mirror, standardize and convert, writing to memory once.

    ``images`` (B, C, height, width) uint8 and ``windows`` (B, 3) int64 (top, left, whether to
    mirror) to (B, C, size, size) of ``dtype`` in channels-last memory. A pixel becomes
    pixel · ``factors`` (C,) + ``shifts`` (1 or size, size, C) + ``colors`` (B, C).
    """
    images = images.contiguous(memory_format=torch.channels_last)
    batch, channels, height, width = images.shape
    rows, size, _ = shifts.shape
    numbers = height, width, channels, resizing.side, size, rows, torch.get_num_threads()
    shape = batch, channels, size, size
    out = torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)
    arrays = (each.contiguous() for each in (windows, factors, shifts, colors))
    run_kernel(KERNELS, "crop", [out, images, *arrays, *resizing[1:]], _Crop(batch, *numbers))
    return out
