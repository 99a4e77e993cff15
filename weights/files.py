"""Files of weights: which suffix is read and written how."""

import io
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.errors import InputError
from model.weights import from_torchvision, to_torchvision
from weights.arrays import read_npz, write_npz
from weights.caffe import read_caffemodel, write_caffemodel
from weights.export import write_exported, write_onnx
from weights.limits import check_size, check_unpacked
from weights.metadata import describe, understand
from weights.net import Weights, check_names, make_weights
from weights.presets import TORCHVISION_PREPROCESSING, imagenet_classes, rgb_only


def read_safetensors(path: Path) -> Weights:
    """The tensors of the local form; raises InputError when they are not all there."""
    try:
        with safe_open(path, framework="pt") as file:
            check_names(path, file.keys())
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(
            f"{path} is not a whole safetensors file ({error}): fetch or write it anew"
        ) from None
    return make_weights(path, tensors, **understand(path, metadata))


def write_safetensors(weights: Weights, path: Path) -> None:
    """Write the tensors of the local form, with what is known of the net as metadata."""
    tensors = {name: tensor.contiguous() for name, tensor in weights.tensors.items()}
    try:
        save_file(tensors, path, metadata={"format": "pt", **describe(weights)})
    except SafetensorError as error:
        raise refusal_of_disk(error) from None


def refusal_of_disk(error: SafetensorError) -> OSError:
    """What the system said, of which safetensors makes an error of its own."""
    if number := re.search(r"os error (\d+)", str(error)):
        return OSError(int(number[1]), os.strerror(int(number[1])))
    return OSError(str(error))


def read_pth(path: Path) -> Weights:
    """A state dict of ``torchvision.models.alexnet``; raises InputError for anything else.

    torch unpickles tensors and plain containers, and refuses all else before it is made.
    """
    if zipfile.is_zipfile(path):
        check_unpacked(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:  # whatever the bytes led the unpickler to
        state = None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise InputError(
            f"{path} is not a whole state dict, tensors by their names, and nothing else is "
            "unpickled: write one with torch.save(net.state_dict(), …)"
        )
    try:
        tensors = from_torchvision(state)
    except InputError as error:
        raise InputError(f"{path} holds another net: {error}") from None
    return make_weights(
        path,
        tensors,
        "torchvision",
        imagenet_classes(tensors),
        rgb_only(tensors, TORCHVISION_PREPROCESSING),
    )


def write_pth(weights: Weights, path: Path) -> None:
    """Write a state dict for ``torchvision.models.alexnet``; raises InputError for another net."""
    if weights.known_variant != "torchvision" or weights.towers != 1:
        raise InputError(
            "a .pth holds torchvision's net, the variant torchvision with one tower, and this is "
            f"{weights.variant} with {weights.towers}: write a .safetensors, .npz, .onnx or .pt2"
        )
    content = io.BytesIO()  # written by torch itself, a full disk would raise a RuntimeError
    torch.save(to_torchvision(weights.tensors), content)
    path.write_bytes(content.getbuffer())


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
    """The weights in a file, by its suffix; raises InputError when it cannot be used."""
    if path.suffix not in READERS:
        raise InputError(
            f"cannot read weights from {path}: name a checkpoint, a run's folder, or a file that "
            f"ends in {_listed(READERS)}"
        )
    try:
        check_size(path)
        return READERS[path.suffix](path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None


def check_target(path: Path) -> None:
    """Raise InputError unless a file of this name can be written."""
    if path.suffix not in WRITERS:
        raise InputError(f"cannot write {path}: its name must end in {_listed(WRITERS)}")


def write_file(weights: Weights, path: Path) -> None:
    """Write a file as its suffix says; raises InputError when it cannot hold this net."""
    check_target(path)
    if weights.changes and path.suffix in FOREIGN:
        raise InputError(
            f"a {path.suffix} cannot say what was changed of the net ({', '.join(weights.changes)})"
            ": write a .safetensors, .onnx or .pt2"
        )
    WRITERS[path.suffix](weights, path)


def _listed(suffixes: Iterable[str]) -> str:
    *first, last = suffixes
    return f"{', '.join(first)} or {last}"
