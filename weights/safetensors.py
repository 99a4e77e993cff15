"""Files of safetensors, our own format: full tensors, with a description of the net as metadata."""

import os
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from common.errors import ReportedError
from weights.description import describe, described_weights, published_weights
from weights.names import find_names
from weights.net import Weights


def read_safetensors(path: Path) -> Weights:
    """Read full tensors and their description; raises ReportedError when a tensor is missing.

    Those under torchvision's names are a net of torchvision.
    """
    try:
        with safe_open(path, framework="pt") as file:
            places, are_torchvisions = find_names(path, file.keys())
            description = file.metadata() or {}
            tensors = {name: file.get_tensor(place) for name, place in places.items()}
    except SafetensorError as error:
        raise ReportedError(
            f"{path} is not a complete safetensors file ({error}): download or write it again"
        ) from None
    if are_torchvisions:
        return published_weights(path, tensors, "torchvision", "torchvision")
    return described_weights(path, tensors, description)


def write_safetensors(weights: Weights, path: Path) -> None:
    """Write the full tensors, with a description of the net."""
    tensors = {name: tensor.contiguous() for name, tensor in weights.tensors.items()}
    try:
        save_file(tensors, path, metadata={"format": "pt", **describe(weights)})
    except SafetensorError as error:
        raise refusal_of_disk(error) from None


def refusal_of_disk(error: SafetensorError) -> OSError:
    """The OSError of the system that safetensors wrapped in an error of its own."""
    if number := re.search(r"os error (\d+)", str(error)):
        return OSError(int(number[1]), os.strerror(int(number[1])))
    return OSError(str(error))
