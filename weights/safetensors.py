"""Our own file format: full tensors, and what is known of the net as metadata."""

import os
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from common.errors import ReportedError
from weights.metadata import describe, understand
from weights.net import Weights, check_names, make_weights


def read_safetensors(path: Path) -> Weights:
    """The tensors of the local form; raises ReportedError when they are not all there."""
    try:
        with safe_open(path, framework="pt") as file:
            check_names(path, file.keys())
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ReportedError(
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
