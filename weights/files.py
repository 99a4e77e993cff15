"""Files of weights: which suffix is read and written how."""

from collections.abc import Callable, Iterable
from pathlib import Path

from common.errors import ReportedError
from weights.arrays import read_npz, write_npz
from weights.caffe import read_caffemodel, write_caffemodel
from weights.export import write_exported, write_onnx
from weights.limits import check_size
from weights.net import Weights
from weights.safetensors import read_safetensors, write_safetensors
from weights.torchvision import read_pth, write_pth

READERS: dict[str, Callable[[Path], Weights]] = {
    ".safetensors": read_safetensors,
    ".pth": read_pth,
    ".caffemodel": read_caffemodel,
    ".npz": read_npz,
}
WRITERS: dict[str, Callable[[Weights, Path], None]] = {
    ".safetensors": write_safetensors,
    ".pth": write_pth,
    ".caffemodel": write_caffemodel,
    ".npz": write_npz,
    ".onnx": write_onnx,
    ".pt2": write_exported,
}
FOREIGN = (".pth", ".caffemodel", ".npz")
"""Formats of others, which hold tensors alone."""


def read_file(path: Path) -> Weights:
    """The weights in a file, by its suffix; raises ReportedError when it cannot be used."""
    if path.suffix not in READERS:
        raise ReportedError(
            f"cannot read weights from {path}: name a checkpoint, a run's folder, or a file that "
            f"ends in {_listed(READERS)}"
        )
    try:
        check_size(path)
        return READERS[path.suffix](path)
    except OSError as error:
        raise ReportedError(f"cannot read {path}: {error.strerror or error}") from None


def check_target(path: Path) -> None:
    """Raise ReportedError unless a file of this name can be written."""
    if path.suffix not in WRITERS:
        raise ReportedError(f"cannot write {path}: its name must end in {_listed(WRITERS)}")


def write_file(weights: Weights, path: Path) -> None:
    """Write a file as its suffix says; raises ReportedError when it cannot hold this net."""
    check_target(path)
    if weights.changes and path.suffix in FOREIGN:
        raise ReportedError(
            f"a {path.suffix} cannot say what was changed of the net ({', '.join(weights.changes)})"
            ": write a .safetensors, .onnx or .pt2"
        )
    WRITERS[path.suffix](weights, path)


def _listed(suffixes: Iterable[str]) -> str:
    *first, last = suffixes
    return f"{', '.join(first)} or {last}"
