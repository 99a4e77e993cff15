"""Files of weights: the reader and the writer of each suffix."""

from collections.abc import Callable, Iterable
from pathlib import Path

from common.errors import ReportedError
from common.files import open_plain
from weights.caffe import read_caffemodel, write_caffemodel
from weights.export import write_exported, write_onnx
from weights.net import MOST_BYTES, Weights
from weights.npz import read_npz, write_npz
from weights.onnx import read_onnx
from weights.safetensors import read_safetensors, write_safetensors
from weights.torchvision import read_pth, write_pth

READERS: dict[str, Callable[[Path], Weights]] = {
    ".safetensors": read_safetensors,
    ".pth": read_pth,
    ".pt": read_pth,
    ".pth.tar": read_pth,
    ".caffemodel": read_caffemodel,
    ".npz": read_npz,
    ".onnx": read_onnx,
}
WRITERS: dict[str, Callable[[Weights, Path], None]] = {
    ".safetensors": write_safetensors,
    ".pth": write_pth,
    ".pt": write_pth,
    ".caffemodel": write_caffemodel,
    ".npz": write_npz,
    ".onnx": write_onnx,
    ".pt2": write_exported,
}
UNCHANGED_ONLY = (".pth", ".pt", ".caffemodel", ".npz")
"""Formats that others read as one of the published nets."""


def read_file(path: Path) -> Weights:
    """Read a file by its suffix; raises ReportedError when that fails."""
    reader = next((READERS[end] for end in READERS if path.name.lower().endswith(end)), None)
    if reader is None:
        raise ReportedError(
            f"cannot read weights from {path}: name a checkpoint, a run's folder, or a file that "
            f"ends in {_listed(READERS)}"
        )
    try:
        open_plain(path, MOST_BYTES).close()
        return reader(path)
    except OSError as error:
        raise ReportedError(f"cannot read {path}: {error.strerror or error}") from None


def check_target(path: Path) -> None:
    """Raise ReportedError unless weights can be written with the suffix of ``path``."""
    if path.suffix.lower() not in WRITERS:
        raise ReportedError(f"cannot write {path}: its name must end in {_listed(WRITERS)}")


def write_file(weights: Weights, path: Path) -> None:
    """Write a file by its suffix; raises ReportedError when the format cannot hold this net."""
    check_target(path)
    suffix = path.suffix.lower()
    if weights.changes and suffix in UNCHANGED_ONLY:
        raise ReportedError(
            f"a {suffix} file cannot hold a net with changes ({', '.join(weights.changes)}): "
            "write a .safetensors, .onnx or .pt2"
        )
    WRITERS[suffix](weights, path)


def _listed(suffixes: Iterable[str]) -> str:
    *first, last = suffixes
    return f"{', '.join(first)} or {last}"
