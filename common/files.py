"""Read files that others may have made; write files that are complete or absent."""

import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from common.errors import ReportedError


def home_path(path: str | Path) -> Path:
    """``path`` with ~ at its beginning for the home folder, as the type of arguments and settings.

    Raises ReportedError when the user has no home folder, as in some containers.
    """
    expanded = os.path.expanduser(path)
    if Path(expanded).parts[:1] == ("~",):
        raise ReportedError(f"there is no home folder for {path}: set HOME, or name another folder")
    return Path(expanded)


def open_plain(path: Path | str, most: int | None = None) -> BinaryIO:
    """Open a regular file for reading.

    Raises OSError when it cannot be opened, is a pipe or a device, whose reading might never end,
    or has more than ``most`` bytes.
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


def check_unpacked(path: Path, most: int) -> None:
    """Raise OSError when a zip archive would unpack to more than ``most`` bytes.

    Raises zipfile.BadZipFile when it is not an archive.
    """
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > most:
        raise OSError(errno.EFBIG, f"it would unpack to more than {most:,} bytes", str(path))


def sha256(path: Path) -> str:
    """The SHA-256 sum of a file in hexadecimal; raises OSError as ``open_plain`` does."""
    digest = hashlib.sha256()
    with open_plain(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def writing(path: Path, advice: str = "") -> Iterator[None]:
    """Turn an OSError into a ReportedError that names ``path``, the reason and the ``advice``."""
    try:
        yield
    except OSError as error:
        message = f"cannot write {path}: {error.strerror or error}"
        raise ReportedError(f"{message}; {advice}" if advice else message) from None


def check_writable(path: Path) -> None:
    """Raise ReportedError if no file can be written at ``path``; what is there stays."""
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent):
            pass


@contextmanager
def replacing(path: Path, folder: Path | None = None, advice: str = "") -> Iterator[Path]:
    """Yield a path for a new file or folder; then sync it and rename it to ``path``.

    The new path lies in ``folder`` (by default, beside ``path``), which must be on the same disk,
    and has the suffix of ``path``. If anything fails, ``path`` stays as it was and the new file is
    removed; but a folder that is there is removed before the new one takes its name. Raises
    ReportedError, as ``writing`` does, when the disk refuses.
    """
    aside = (folder or path.parent) / f".{path.stem}.part{path.suffix}"
    with writing(path, advice):
        remove(aside)  # a killed process may have left it
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
    """Remove a file or a folder with its content, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_objects(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line; a line that is none, cut short say, is skipped.

    A missing file has none. Raises ReportedError if the file cannot be read.
    """
    try:
        with open_plain(path) as file:
            lines = file.read().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ReportedError(f"cannot read {path}: {error.strerror}") from None
    return [value for value in map(_json_or_none, lines) if isinstance(value, dict)]


def _json_or_none(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
