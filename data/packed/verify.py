"""Whether packed images are as they were written."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from common.errors import ReportedError
from common.files import sha256
from data.packed.index import StoredFile, read_index


def verify(folder: Path, workers: int) -> int:
    """The number of files in ``folder`` that have the sums of its index, which are all.

    Raises ReportedError when there is no valid index, or a file is missing or altered.
    """
    files = read_index(folder).files
    with ThreadPoolExecutor(workers) as pool:
        sums = pool.map(lambda stored: _sum(folder / stored.file), files)
        found = list(tqdm(sums, total=len(files), unit="file", disable=None))
    if wrong := _wrong(files, found):
        raise ReportedError(
            f"{len(wrong)} of the {len(files)} files of {folder} are missing or altered "
            f"({', '.join(wrong[:5])}{', …' * (len(wrong) > 5)}): restore them, or delete the "
            "folder and prepare it again"
        )
    return len(files)


def _sum(path: Path) -> str:
    """Of a file; empty if it cannot be read."""
    try:
        return sha256(path)
    except OSError:
        return ""


def _wrong(files: Sequence[StoredFile], found: Sequence[str]) -> list[str]:
    return [
        stored.file for stored, digest in zip(files, found, strict=True) if stored.sha256 != digest
    ]
