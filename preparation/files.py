"""Files that are whole or not there."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from model.errors import InputError


def sha256(path: Path) -> str:
    """The SHA-256 sum of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def writing_whole(path: Path, aside: Path) -> Iterator[IO[bytes]]:
    """A file to fill, which gets its name ``path`` when all of it is on the disk.

    Until then it lies in the folder ``aside``, on the same disk. Of an exception, nothing is left.
    Raises InputError when the disk refuses.
    """
    part = aside / f"{path.name}.{os.getpid()}.part"
    try:
        try:
            with part.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            sync_folder(path.parent)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(
            f"cannot write {path} ({error.strerror or error}): make it possible, then run the same "
            "again, which goes on from what is finished"
        ) from None


def sync_folder(path: Path) -> None:
    """Put the names in a folder on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
