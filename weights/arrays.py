"""NumPy's archives: Caffe's arrays under our names.

The keys are ``conv1.weight``, ``conv1.bias`` and so on to ``fc8.bias``: weights (outputs, inputs of
a group, height, width) or (outputs, inputs), biases (outputs,), all as pycaffe's ``net.params``
holds them, so conv1 reads BGR. ``metadata``, a text in JSON, may be there and says which net it is.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import ReportedError
from weights.caffe import VARIANTS_OF_CAFFE, swap_rgb
from weights.limits import check_unpacked
from weights.metadata import describe, understand
from weights.net import NAMES, Weights, make_weights
from weights.presets import CAFFE_PREPROCESSING, imagenet_classes, rgb_only

METADATA = "metadata"


def read_npz(path: Path) -> Weights:
    """The weights in an archive, Caffe's ``caffe`` net if it does not say which.

    Raises ReportedError when it is not whole, or has other keys; objects are never unpickled.
    """
    try:
        check_unpacked(path)
        with np.load(path, allow_pickle=False) as archive:
            if missing := [name for name in NAMES if name not in archive.files]:
                raise ReportedError(f"{path} holds no AlexNet: it has no key {missing[0]}")
            tensors = swap_rgb({name: _tensor(archive[name]) for name in NAMES})
            metadata = json.loads(str(archive[METADATA])) if METADATA in archive.files else None
    except (ReportedError, OSError):
        raise
    except Exception as error:  # whatever the bytes led zipfile, NumPy and json to
        reason = " ".join(str(error).split())[:100].rstrip(".") or "it is cut short"
        raise ReportedError(
            f"{path} is not a whole .npz archive of numbers ({reason}): write it anew"
        ) from None
    if isinstance(metadata, dict):
        return make_weights(path, tensors, **understand(path, metadata))
    names, preprocessing = imagenet_classes(tensors), rgb_only(tensors, CAFFE_PREPROCESSING)
    weights = make_weights(path, tensors, None, names, preprocessing)
    return weights.of_variant(VARIANTS_OF_CAFFE[0]) if weights.variant is None else weights


def _tensor(array: np.ndarray) -> Tensor:
    if array.dtype.kind != "f":
        raise ValueError(f"an array is of {array.dtype}")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def write_npz(weights: Weights, path: Path) -> None:
    """Write the archive, with what is known of the net."""
    tensors = swap_rgb(weights.tensors)
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
    arrays[METADATA] = json.dumps(describe(weights))
    np.savez(path, **arrays)
