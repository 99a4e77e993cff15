"""State dicts of ``torchvision.models.alexnet`` (.pth): only tensors are unpickled."""

import io
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from common.errors import ReportedError
from common.files import check_unpacked
from weights.description import published_weights
from weights.net import MOST_BYTES, Weights

LAYERS = {
    "conv1": "features.0",
    "conv2": "features.3",
    "conv3": "features.6",
    "conv4": "features.8",
    "conv5": "features.10",
    "fc6": "classifier.1",
    "fc7": "classifier.4",
    "fc8": "classifier.6",
}
"""Our name of each layer, and torchvision's."""


def to_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a one-tower ``torchvision`` net to torchvision's names."""
    return {
        f"{theirs}.{kind}": state[f"{ours}.{kind}"]
        for ours, theirs in LAYERS.items()
        for kind in ("weight", "bias")
    }


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename torchvision's tensors to our names; raises KeyError when one is missing."""
    return {
        f"{ours}.{kind}": state[f"{theirs}.{kind}"]
        for ours, theirs in LAYERS.items()
        for kind in ("weight", "bias")
    }


def read_pth(path: Path) -> Weights:
    """Read a state dict of ``torchvision.models.alexnet``.

    torch unpickles tensors and plain containers and refuses every other type. Raises ReportedError
    for a damaged file, another content or another net.
    """
    if zipfile.is_zipfile(path):
        check_unpacked(path, MOST_BYTES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:  # the unpickler raises many types for damaged bytes
        state = None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ReportedError(
            f"{path} is not a complete state dict of named tensors, and nothing else is unpickled: "
            "write one with torch.save(net.state_dict(), …)"
        )
    try:
        tensors = from_torchvision(state)
    except KeyError as missing:
        raise ReportedError(
            f"{path} does not hold torchvision's alexnet: it has no {missing}"
        ) from None
    return published_weights(path, tensors, "torchvision", "torchvision")


def write_pth(weights: Weights, path: Path) -> None:
    """Write torchvision's state dict; raises ReportedError for another net."""
    if weights.known_variant != "torchvision" or weights.towers != 1:
        raise ReportedError(
            "a .pth file holds only the variant torchvision with one tower, and this is "
            f"{weights.variant} with {weights.towers}: write a .safetensors, .npz, .onnx or .pt2"
        )
    content = io.BytesIO()  # in memory first: torch reports a full disk as a RuntimeError
    torch.save(to_torchvision(weights.tensors), content)
    path.write_bytes(content.getbuffer())
