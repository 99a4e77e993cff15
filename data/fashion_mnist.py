"""Fashion-MNIST: its four files, found or downloaded, and read into memory."""

import fcntl
import gzip
import hashlib
import socket
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor
from torchvision import datasets

from common.cache import cache_folder
from common.errors import ReportedError
from common.files import open_plain
from data import Split

MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
"""MD5 sums of the unpacked files."""

SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DEBIAN_PACKAGE = "dataset-fashion-mnist"
NETWORK_TIMEOUT = 30.0
IMAGE_HEADER, LABEL_HEADER = 16, 8
MOST_BYTES = IMAGE_HEADER + 60_000 * 28 * 28
"""Length of the longest file, unpacked."""


class FashionMNIST:
    """60,000 training and 10,000 test images of clothes, grey, 28 × 28 pixels, in ten classes.

    Raises ReportedError when the files are missing or altered and cannot be downloaded.
    """

    classes: Sequence[str] = tuple(datasets.FashionMNIST.classes)
    channels = 1
    height = width = 28
    decodes = False
    block = 0

    def __init__(self, split: Split, folder: Path | None = None) -> None:
        found = prepare(folder)
        self.prefix = prefix = "train" if split == "train" else "t10k"
        images = _read_file(found, f"{prefix}-images-idx3-ubyte")[IMAGE_HEADER:]
        self.images = images.view(-1, self.channels, self.height, self.width)
        self.labels = _read_file(found, f"{prefix}-labels-idx1-ubyte")[LABEL_HEADER:].long()

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 1, 28, 28) uint8 and labels (B,) int64 at ``indices`` (B,)."""
        return self.images[indices], self.labels[indices]

    def fingerprint(self) -> str:
        """The MD5 sums of the files, which they were checked against."""
        return " ".join(total for name, total in MD5.items() if name.startswith(self.prefix))


def prepare(folder: Path | None = None) -> Path:
    """Find the folder of the four files, or download them.

    Only ``folder`` is searched if it is given, and nothing is downloaded. Several processes that
    call this at the same time download once.

    Raises ReportedError when the files are not in ``folder``, or cannot be downloaded.
    """
    if folder:
        if found := _files_in(folder):
            return found
        raise ReportedError(
            f"{folder} does not hold the four files of Fashion-MNIST ({', '.join(MD5)}, with or "
            "without .gz): put them there, or omit data.folder to download them"
        )
    return find() or _download(_own_folder())


def find() -> Path | None:
    """The folder of the four files, where nobody named one; None if they are not there yet."""
    return _files_in(SYSTEM_FOLDER) or _files_in(_own_folder())


def _own_folder() -> Path:
    return cache_folder() / "fashion-mnist"


def _files_in(folder: Path) -> Path | None:
    """The folder of all four files: ``folder``, or torchvision's place below it; else None."""
    for place in (folder, folder / "FashionMNIST" / "raw", folder / "raw"):
        if all(_packed_or_not(place, name) for name in MD5):
            return place
    return None


def _packed_or_not(folder: Path, name: str) -> Path | None:
    paths = (folder / name, folder / f"{name}.gz")
    return next((path for path in paths if path.is_file()), None)


def _read_file(folder: Path, name: str) -> Tensor:
    """Unpacked bytes (N,) uint8 of a file; raises ReportedError if their sum is wrong."""
    path = _packed_or_not(folder, name) or folder / name
    remedy = "replace it with the original, or delete it"
    try:
        with (
            open_plain(path) as file,
            gzip.open(file) if path.suffix == ".gz" else file as unpacked,
        ):
            content = bytearray(unpacked.read(MOST_BYTES + 1))
    except (OSError, EOFError, zlib.error) as error:
        raise ReportedError(f"{path} cannot be read ({error}): {remedy}") from error
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != MD5[name]:
        raise ReportedError(
            f"{path} is not the file of Fashion-MNIST (MD5 sum of the unpacked bytes: {found}, not "
            f"{MD5[name]}): {remedy}"
        )
    return torch.frombuffer(content, dtype=torch.uint8)


# --- Download -------------------------------------------------------------------------------------


def _download(cache: Path) -> Path:
    """Download into ``cache`` from the first source that works, one process at a time."""
    failures = []
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / ".lock"):
            if found := _files_in(cache):
                return found
            for source, fetch in SOURCES.items():
                try:
                    with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as scratch:
                        _keep(fetch(Path(scratch)), cache)
                    return cache
                except (*FETCH_ERRORS, ReportedError) as error:
                    failures.append(f"{source}: {_one_line(error)}")
    except OSError as error:
        failures.append(f"{cache}: {error}")
    raise ReportedError(
        f"Fashion-MNIST is neither in {SYSTEM_FOLDER} nor in {cache}, and cannot be downloaded "
        f"({'; '.join(failures)}): connect this machine to the network, or download the four files "
        "of https://github.com/zalandoresearch/fashion-mnist and name their folder in data.folder"
    )


def _fetch_with_torchvision(scratch: Path) -> Path:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT)
    try:
        datasets.FashionMNIST(scratch, download=True)
    finally:
        socket.setdefaulttimeout(before)
    return scratch


def _fetch_with_apt(scratch: Path) -> Path:
    """Download and unpack Debian's package; neither needs root, as installing it would."""
    _run(["apt-get", "download", DEBIAN_PACKAGE], scratch)
    for package in scratch.glob("*.deb"):
        _run(["dpkg-deb", "-x", package.name, "."], scratch)
    return scratch / SYSTEM_FOLDER.relative_to("/")


SOURCES: dict[str, Callable[[Path], Path]] = {
    "torchvision": _fetch_with_torchvision,
    "apt-get": _fetch_with_apt,
}
FETCH_ERRORS = (OSError, EOFError, RuntimeError, HTTPException, subprocess.SubprocessError)


def _run(command: list[str], folder: Path) -> None:
    """Run ``command`` in ``folder``; raises RuntimeError with its last line if it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode:
        complaint = done.stderr.strip() or f"status {done.returncode}"
        raise RuntimeError(complaint.splitlines()[-1])


def _keep(fetched: Path, cache: Path) -> None:
    """Verify the files in ``fetched``, then move each to ``cache`` in one step."""
    folder = _files_in(fetched)
    if folder is None:
        raise ReportedError("the download lacks some of the four files")
    for name in MD5:
        _read_file(folder, name)
    for name in MD5:
        path = _packed_or_not(folder, name) or folder / name
        path.replace(cache / path.name)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the file ``path`` as a lock; wait while another process holds it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
