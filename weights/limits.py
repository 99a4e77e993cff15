"""How large a net may be; a small file can claim, or unpack to, any size."""

import zipfile
from pathlib import Path

from common.errors import ReportedError
from common.files import open_plain

MOST_BYTES = 2**31
"""A net of 60 million parameters in double precision takes a quarter of it."""


def check_size(path: Path) -> None:
    """Raise OSError unless ``path`` is a file of no more than ``MOST_BYTES``."""
    open_plain(path, MOST_BYTES).close()


def check_unpacked(path: Path) -> None:
    """The same of a zip archive's content; raises ReportedError, or BadZipFile if it is none."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > MOST_BYTES:
        raise ReportedError(
            f"{path} would unpack to {unpacked:,} bytes, and no AlexNet has more than "
            f"{MOST_BYTES:,}: fetch it from a source that you trust"
        )
