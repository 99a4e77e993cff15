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
from weights.names import NAMES, find_names, in_torchvision
from weights.net import MOST_BYTES, Weights, make_weights


def to_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a one-tower ``torchvision`` net to torchvision's names."""
    return {in_torchvision(name): state[name] for name in NAMES}


def read_pth(path: Path) -> Weights:
    """Read a state dict of ``torchvision.models.alexnet``, or of our net.

    It may be inside of other dicts, and its names may begin with a prefix. torch unpickles tensors
    and plain containers and refuses every other type. Raises ReportedError for a damaged file,
    another content or another net.
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
    if not (tensors := _named_tensors(state)):
        raise ReportedError(
            f"{path} is not a complete state dict of named tensors, and nothing else is unpickled: "
            "write one with torch.save(net.state_dict(), …)"
        )
    places, are_torchvisions = find_names(path, tensors)
    found = {name: tensors[place] for name, place in places.items()}
    if are_torchvisions:
        return published_weights(path, found, "torchvision", "torchvision")
    return make_weights(path, found)


def _named_tensors(state: object) -> dict[str, Tensor]:
    """The tensors of a dict and of the dicts inside of it, by their keys with dots between."""
    tensors: dict[str, Tensor] = {}
    inside, seen = [("", state)], set[int]()  # one may hold itself
    while inside:
        prefix, content = inside.pop()
        if isinstance(content, dict) and id(content) not in seen:
            seen.add(id(content))
            for key, value in content.items():
                if isinstance(value, Tensor):
                    tensors[f"{prefix}{key}"] = value
                else:
                    inside.append((f"{prefix}{key}.", value))
    return tensors


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
