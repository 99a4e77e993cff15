"""NumPy files: what they claim to hold is known before the numbers are read."""

from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from common.files import open_plain


class Header(NamedTuple):
    """What a file says of its array, and the byte at which the numbers begin."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: "np.dtype[Any]"
    offset: int


def read_header(path: Path) -> Header:
    """The header of a file; raises OSError, or ValueError when it is none of an array of numbers.

    Python objects, which would have to be unpickled, are none.
    """
    with open_plain(path) as file:
        try:
            header = _header(file)
        except Exception as error:  # whatever the bytes led NumPy's parser to
            raise ValueError(" ".join(str(error).split())[:100] or "it is cut short") from None
    if header.dtype.kind not in "biuf":
        raise ValueError("it holds other things than numbers")
    return header


def _header(file: BinaryIO) -> Header:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return Header(*np.lib.format.read_array_header_1_0(file), file.tell())
    if version == (2, 0):
        return Header(*np.lib.format.read_array_header_2_0(file), file.tell())
    raise ValueError(f"its version is {version}")


def read_array(path: Path) -> "np.ndarray[Any, Any]":
    """The numbers of a file, which should have been asked for its header first.

    Raises OSError, or ValueError when they are not all there.
    """
    with open_plain(path) as file:
        array: np.ndarray[Any, Any] = np.load(file, allow_pickle=False)
    return array
