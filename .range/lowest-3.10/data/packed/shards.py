"""Make one shard: image files decoded into one array on the disk."""

import errno
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from pydantic import ValidationError

from common.errors import ReportedError
from common.files import sha256
from data import Split
from data.image_folder import decode_with_mode
from data.packed.index import UNFINISHED, Count, Digest, Part, Skipped
from data.packed.source import MISSING, SourceFile
from data.packed.statistics import Array, Matrix, Sums
from data.packed.storing import CONTINUE, store_array, store_json, storing

GREY = {"1", "L", "LA", "La", "I", "I;16", "F"}
"""PIL's names of modes without color."""
SYSTEM_ERRORS = {
    *(errno.EIO, errno.ENOENT, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
}
"""Errors of a disk, a network or this machine. PIL raises other ones for damaged images."""


class Record(Part):
    """A finished shard; one whose images were all skipped has no file and no ``sha256``.

    ``sums`` is the digest of the file of sums, which only training shards have.
    """

    images: Count
    sha256: Digest | None
    labels: list[int]
    grey: Count
    cmyk: Count
    skipped: list[Skipped]
    sums: Digest | None
    products: Matrix


@dataclass(frozen=True)
class Task:
    """Make shard ``number`` of ``split`` in ``target`` from ``files`` of ``source``."""

    split: Split
    number: int
    source: Path
    files: list[SourceFile]
    target: Path
    size: int

    @property
    def shard(self) -> str:
        """File of the images, in ``target``."""
        return f"{self.split}-{self.number:05d}.npy"

    @property
    def sums(self) -> str | None:
        """File of the training images' sums at each place, in ``target``."""
        name = f"{UNFINISHED}/{self.split}-{self.number:05d}.sums.npy"
        return name if self.split == "train" else None

    @property
    def record(self) -> str:
        """File of the record, in ``target``; written last, when the shard is finished."""
        return f"{UNFINISHED}/{self.split}-{self.number:05d}.json"


def finished(task: Task) -> Record | None:
    """The record of a finished shard, or None where a file is missing or altered."""
    try:
        record = Record.model_validate_json((task.target / task.record).read_bytes())
        for name, digest in ((task.shard, record.sha256), (task.sums, record.sums)):
            if name and digest and sha256(task.target / name) != digest:
                return None
    except (OSError, ValidationError):
        return None
    return record


def pack(task: Task) -> Record:
    """Decode the files of a task and write its shard.

    Files that are not images are skipped and named in the record. Raises ReportedError when the
    disk refuses to read or to write.
    """
    content = _Content(Sums(task.size))
    with storing(task.target, task.shard) as file:
        file.write(_header(len(task.files), task.size))
        for source in task.files:
            _pack_one(task, source, file, content)
        file.seek(0)
        file.write(_header(len(content.labels), task.size))  # as long as the first header
    if not content.labels:
        (task.target / task.shard).unlink()
    if task.sums:
        store_array(task.target, task.sums, content.sums.places)
    record = Record(
        images=len(content.labels),
        sha256=sha256(task.target / task.shard) if content.labels else None,
        labels=content.labels,
        grey=content.grey,
        cmyk=content.cmyk,
        skipped=content.skipped,
        sums=sha256(task.target / task.sums) if task.sums else None,
        products=content.sums.products,
    )
    store_json(task.target, task.record, record)
    return record


@dataclass
class _Content:
    sums: Sums
    labels: list[int] = field(default_factory=list)
    grey: int = 0
    cmyk: int = 0
    skipped: list[Skipped] = field(default_factory=list)


def _pack_one(task: Task, source: SourceFile, file: IO[bytes], content: _Content) -> None:
    path = str(task.source / source.path)
    try:
        image, mode = decode_with_mode(path, task.size)  # (3, size, size)
    except ReportedError as error:
        _check_system(path, source, error)
        content.skipped.append(_skipped(path, source, error))
        return
    pixels: Array = image.permute(1, 2, 0).contiguous().numpy()  # (size, size, 3)
    file.write(pixels.data)
    content.labels.append(source.label)
    content.grey += mode in GREY
    content.cmyk += mode == "CMYK"
    if task.sums:
        content.sums.add(pixels)


def _check_system(path: str, source: SourceFile, error: ReportedError) -> None:
    """Raise ReportedError when the system failed to read a file, so that it is not skipped.

    A link to nowhere, listed as such from the start, is skipped.
    """
    cause = error.__cause__
    denied = isinstance(cause, OSError) and cause.errno in SYSTEM_ERRORS
    if source.bytes != MISSING and (denied or isinstance(cause, MemoryError)):
        raise ReportedError(
            f"{path} could not be read ({cause or 'out of memory'}): mend that, then {CONTINUE}"
        ) from None


def _skipped(path: str, source: SourceFile, error: ReportedError) -> Skipped:
    """Name a skipped file by its path in the source, wherever that is on this machine."""
    name = _readable(source.path)
    reason = " ".join(str(error.__cause__ or error).split())
    return Skipped(file=name, reason=_readable(reason).replace(_readable(path), name))


def _readable(text: str) -> str:
    """Escape the bytes of a file's name that are not text."""
    return text.encode(errors="backslashreplace").decode()


def _header(images: int, size: int) -> bytes:
    """The header of a NumPy file; NumPy pads it, so its length is the same for every count."""
    header = io.BytesIO()
    shape = images, size, size, 3
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return header.getvalue()
