"""Weights of ``torchvision.models.alexnet``: a pickled state dict; only tensors are read."""

import io
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from common.errors import ReportedError
from weights.limits import check_unpacked
from weights.net import Weights, make_weights
from weights.presets import TORCHVISION_PREPROCESSING, imagenet_classes, rgb_only

TORCHVISION_LAYERS = {
    "conv1": "features.0",
    "conv2": "features.3",
    "conv3": "features.6",
    "conv4": "features.8",
    "conv5": "features.10",
    "fc6": "classifier.1",
    "fc7": "classifier.4",
    "fc8": "classifier.6",
}


def to_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A one-tower ``torchvision`` net's state under the keys of ``torchvision.models.alexnet``."""
    return {
        f"{theirs}.{kind}": state[f"{ours}.{kind}"]
        for ours, theirs in TORCHVISION_LAYERS.items()
        for kind in ("weight", "bias")
    }


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The other way round; raises ReportedError for the state of another net."""
    try:
        return {
            f"{ours}.{kind}": state[f"{theirs}.{kind}"]
            for ours, theirs in TORCHVISION_LAYERS.items()
            for kind in ("weight", "bias")
        }
    except KeyError as missing:
        raise ReportedError(f"these are not torchvision's alexnet weights: no {missing}") from None


def read_pth(path: Path) -> Weights:
    """A state dict of ``torchvision.models.alexnet``; raises ReportedError for anything else.

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
        raise ReportedError(
            f"{path} is not a whole state dict, tensors by their names, and nothing else is "
            "unpickled: write one with torch.save(net.state_dict(), …)"
        )
    try:
        tensors = from_torchvision(state)
    except ReportedError as error:
        raise ReportedError(f"{path} holds another net: {error}") from None
    return make_weights(
        path,
        tensors,
        "torchvision",
        imagenet_classes(tensors),
        rgb_only(tensors, TORCHVISION_PREPROCESSING),
    )


def write_pth(weights: Weights, path: Path) -> None:
    """Write torchvision's state dict; raises ReportedError for another net."""
    if weights.known_variant != "torchvision" or weights.towers != 1:
        raise ReportedError(
            "a .pth holds torchvision's net, the variant torchvision with one tower, and this is "
            f"{weights.variant} with {weights.towers}: write a .safetensors, .npz, .onnx or .pt2"
        )
    content = io.BytesIO()  # written by torch itself, a full disk would raise a RuntimeError
    torch.save(to_torchvision(weights.tensors), content)
    path.write_bytes(content.getbuffer())
