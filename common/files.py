"""Reading files that others may have made, and writing files that are whole or not there."""

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from common.errors import ReportedError


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


def sha256(path: Path) -> str:
    """The SHA-256 sum of a file, as hexadecimal digits; raises OSError as ``open_plain`` does."""
    digest = hashlib.sha256()
    with open_plain(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError raised inside into a ReportedError that names ``path``."""
    try:
        yield
    except OSError as error:
        raise ReportedError(f"cannot write {path}: {error.strerror or error}") from None


@contextmanager
def replacing(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """Yield a path to write a file or a folder to; sync it, then rename it to ``path``.

    The path given lies in ``folder`` (beside ``path`` by default), which must be on the same disk,
    and keeps the suffix. Whatever fails inside leaves ``path`` as it was and nothing beside it.
    Raises ReportedError when the disk refuses.
    """
    aside = (folder or path.parent) / f".{path.stem}.part{path.suffix}"
    with writing(path):
        try:
            yield aside
            for part in (*(aside.iterdir() if aside.is_dir() else ()), aside):
                sync(part)
            if aside.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            os.replace(aside, path)
            sync(path.parent)
        finally:
            remove(aside)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until the disk holds a file's content, or a folder's names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
