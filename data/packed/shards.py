"""One shard: some image files decoded into one array on the disk, or found there already."""

import errno
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from pydantic import ValidationError

from common.errors import ReportedError
from common.files import replacing, sha256
from data.image_folder import decode_with_mode
from data.packed.index import UNFINISHED, Count, Digest, Part, Skipped
from data.packed.source import MISSING, SourceFile
from data.packed.statistics import Array, Matrix, Sums

GREY = {"1", "L", "LA", "La", "I", "I;16", "F"}
"""PIL's names of modes without colour."""
OF_THE_SYSTEM = {
    *(errno.EIO, errno.ENOENT, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
}
"""Errors of a disk, a network or this machine; PIL has others for files that it cannot decode."""


class Stopped(Exception):  # noqa: N818 - no error
    """Packing was told to end."""


class Record(Part):
    """A finished shard; ``sums`` is the digest of its places' sums, of training images only.

    A shard without any image that could be decoded has no file.
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
    """Make the shard ``target``/``name``.npy of ``files``, with or without their sums."""

    name: str
    source: Path
    files: list[SourceFile]
    target: Path
    size: int
    with_sums: bool

    @property
    def shard(self) -> Path:
        """The images."""
        return self.target / f"{self.name}.npy"

    @property
    def aside(self) -> Path:
        """The folder for what is not kept in the end."""
        return self.target / UNFINISHED

    @property
    def sums(self) -> Path:
        """The sums of the training images at each place."""
        return self.aside / f"{self.name}.sums.npy"

    @property
    def record(self) -> Path:
        """There if and only if the rest is."""
        return self.aside / f"{self.name}.json"


def kept(task: Task) -> Record | None:
    """The record of a shard that is finished and whole, by its sum."""
    try:
        record = Record.model_validate_json(task.record.read_bytes())
        if record.sha256 and sha256(task.shard) != record.sha256:
            return None
        if record.sums and sha256(task.sums) != record.sums:
            return None
    except (OSError, ValidationError):
        return None
    return record


def pack(task: Task, stopped: Callable[[], bool] = lambda: False) -> Record:
    """Decode the files of a task and write its shard.

    Files that are no images are skipped, and named in the record. Raises ReportedError when the
    disk refuses a file or its own writing, and Stopped, before the next file, if ``stopped`` says
    so.
    """
    written = _Written(Sums(task.size))
    with replacing(task.shard, task.aside) as part, part.open("wb") as file:
        file.write(_header(len(task.files), task.size))
        for source in task.files:
            if stopped():
                raise Stopped
            _pack_one(task, source, file, written)
        file.seek(0)
        file.write(_header(len(written.labels), task.size))  # as long as the one before
    if not written.labels:
        task.shard.unlink()
    if task.with_sums:
        with replacing(task.sums, task.aside) as part, part.open("wb") as file:
            np.save(file, written.sums.places)
    record = Record(
        images=len(written.labels),
        sha256=sha256(task.shard) if written.labels else None,
        labels=written.labels,
        grey=written.grey,
        cmyk=written.cmyk,
        skipped=written.skipped,
        sums=sha256(task.sums) if task.with_sums else None,
        products=written.sums.products,
    )
    with replacing(task.record, task.aside) as part, part.open("wb") as file:
        file.write(record.model_dump_json().encode())
    return record


@dataclass
class _Written:
    sums: Sums
    labels: list[int] = field(default_factory=list)
    grey: int = 0
    cmyk: int = 0
    skipped: list[Skipped] = field(default_factory=list)


def _pack_one(task: Task, source: SourceFile, file: IO[bytes], written: _Written) -> None:
    path = str(task.source / source.path)
    try:
        image, mode = decode_with_mode(path, task.size)
    except ReportedError as error:
        _check_system(path, source, error)
        written.skipped.append(_skipped(path, source, error))
        return
    pixels: Array = image.permute(1, 2, 0).contiguous().numpy()
    file.write(pixels.data)
    written.labels.append(source.label)
    written.grey += mode in GREY
    written.cmyk += mode == "CMYK"
    if task.with_sums:
        written.sums.add(pixels)


def _check_system(path: str, source: SourceFile, error: ReportedError) -> None:
    """Raise ReportedError where the system did not hand out a file: that is no fault of the image.

    A link that led nowhere from the start counts as broken.
    """
    cause = error.__cause__
    denied = isinstance(cause, OSError) and cause.errno in OF_THE_SYSTEM
    if source.bytes != MISSING and (denied or isinstance(cause, MemoryError)):
        raise ReportedError(
            f"{path} could not be read now ({cause or 'no memory'}): see to that, then run the "
            "same again, which goes on from what is finished"
        ) from None


def _skipped(path: str, source: SourceFile, error: ReportedError) -> Skipped:
    """Named by its path in the source, so that the index does not depend on where that lies."""
    name = _readable(source.path)
    reason = " ".join(str(error.__cause__ or error).split())
    return Skipped(file=name, reason=_readable(reason).replace(_readable(path), name))


def _readable(text: str) -> str:
    """With escapes for the bytes of a name that are no text."""
    return text.encode(errors="backslashreplace").decode()


def _header(images: int, size: int) -> bytes:
    """Of a NumPy file; as long for any number of images, since NumPy leaves room for it to grow."""
    header = io.BytesIO()
    shape = images, size, size, 3
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return header.getvalue()
