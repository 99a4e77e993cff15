"""NumPy archives (.npz) of Caffe's arrays.

The keys are ``conv1.weight``, ``conv1.bias``, … ``fc8.bias``: weights (outputs, inputs of a group,
height, width) or (outputs, inputs), and biases (outputs,), as in pycaffe's ``net.params``; conv1
reads BGR. The optional key ``metadata`` holds a description of the net as JSON.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import ReportedError
from common.files import check_unpacked
from weights.caffe import swap_rgb
from weights.description import describe, described_weights, published_weights
from weights.names import find_names
from weights.net import MOST_BYTES, Weights

METADATA = "metadata"


def read_npz(path: Path) -> Weights:
    """Read an archive; one without a description holds the variant ``caffe`` if its shapes fit.

    Raises ReportedError when it is damaged or lacks a key. Objects are never unpickled.
    """
    try:
        check_unpacked(path, MOST_BYTES)
        with np.load(path, allow_pickle=False) as archive:
            keys = [key for key in archive.files if key != METADATA]
            places, are_torchvisions = find_names(path, keys)
            tensors = {name: _tensor(archive[place]) for name, place in places.items()}
            description = json.loads(str(archive[METADATA])) if METADATA in archive.files else None
    except (ReportedError, OSError):
        raise
    except Exception as error:  # zipfile, NumPy and json raise many types for damaged bytes
        reason = " ".join(str(error).split())[:100].rstrip(".") or "it ends too early"
        raise ReportedError(
            f"{path} is not a complete .npz archive of numbers ({reason}): write it again"
        ) from None
    if are_torchvisions:
        return published_weights(path, tensors, "torchvision", "torchvision")
    tensors = swap_rgb(tensors)
    if isinstance(description, dict):
        return described_weights(path, tensors, description)
    weights = published_weights(path, tensors, "caffe", None)
    return weights.of_variant("caffe") if weights.variant is None else weights


def _tensor(array: np.ndarray) -> Tensor:
    if array.dtype.kind != "f":
        raise ValueError(f"an array holds {array.dtype}")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def write_npz(weights: Weights, path: Path) -> None:
    """Write the archive, with a description of the net."""
    tensors = swap_rgb(weights.tensors)
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
    arrays[METADATA] = json.dumps(describe(weights))
    with path.open("wb") as file:  # to a path NumPy adds .npz, unless it ends so in small letters
        np.savez(file, **arrays)
