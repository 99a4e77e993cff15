"""Compare packed images with the sums in their index."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from common.errors import ReportedError
from common.files import sha256
from data.packed.index import read_index


def verify(folder: Path, workers: int) -> int:
    """Check every file's SHA-256 sum; return the number of files.

    Raises ReportedError when the index is not valid, or when a file is missing or altered.
    """
    files = read_index(folder).files
    with ThreadPoolExecutor(workers) as pool:
        sums = pool.map(lambda stored: _sum(folder / stored.file), files)
        found = list(tqdm(sums, total=len(files), unit="file", disable=None))
    wrong = [
        stored.file for stored, digest in zip(files, found, strict=True) if stored.sha256 != digest
    ]
    if wrong:
        raise ReportedError(
            f"{len(wrong)} of the {len(files)} files of {folder} are missing or altered "
            f"({', '.join(wrong[:5])}{', …' * (len(wrong) > 5)}): restore them, or delete the "
            "folder and prepare it again"
        )
    return len(files)


def _sum(path: Path) -> str:
    """The SHA-256 sum of a file, or an empty text if it cannot be read."""
    try:
        return sha256(path)
    except OSError:
        return ""
