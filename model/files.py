"""Opening files that others may have made."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_plain(path: Path | str, most: int | None = None) -> BinaryIO:
    """The file at ``path``, open for reading, if it is one that has an end.

    Raises OSError when it cannot be opened, when it is a pipe or a device, and when it has more
    than ``most`` bytes.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check(os.fstat(handle), str(path), most)
        return open(handle, "rb")
    except OSError:
        os.close(handle)
        raise


def _check(found: os.stat_result, path: str, most: int | None) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", path)
    if most is not None and found.st_size > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", path)
