"""Read NumPy files: first the header, then the numbers it claims."""

from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from common.files import open_plain


class Header(NamedTuple):
    """The header of a NumPy file; the numbers begin ``offset`` bytes into the file."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: "np.dtype[Any]"
    offset: int


def read_header(path: Path) -> Header:
    """Read the header of a file.

    Raises OSError, or ValueError when the file is not an array of numbers. An array of Python
    objects is refused, since it would have to be unpickled.
    """
    with open_plain(path) as file:
        try:
            header = _header(file)
        except Exception as error:  # NumPy's parser raises many types for damaged bytes
            raise ValueError(" ".join(str(error).split())[:100] or "it ends too early") from None
    if header.dtype.kind not in "biuf":
        raise ValueError(f"it holds {header.dtype}, not numbers")
    return header


def _header(file: BinaryIO) -> Header:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return Header(*np.lib.format.read_array_header_1_0(file), file.tell())
    if version == (2, 0):
        return Header(*np.lib.format.read_array_header_2_0(file), file.tell())
    raise ValueError(f"its version is {version}")


def read_array(path: Path) -> "np.ndarray[Any, Any]":
    """Read the numbers of a file; check its header with ``read_header`` first.

    Raises OSError, or ValueError when the file is shorter than its header claims.
    """
    with open_plain(path) as file:
        array: np.ndarray[Any, Any] = np.load(file, allow_pickle=False)
    return array
