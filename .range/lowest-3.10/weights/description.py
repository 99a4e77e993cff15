"""The description of a net beside its tensors: written in our files, known for published ones."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from common.errors import ReportedError
from weights.net import Weights, make_weights

PREPROCESSING: dict[str, dict[str, Any]] = {
    "torchvision": {
        "size": 224,
        "resize": 256,
        "stored_size": 256,
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
    },
    "caffe": {
        "size": 227,
        "resize": 256,
        "stored_size": 256,
        "mean": [122.6789, 116.6688, 104.0070],
        "std": 1.0,
    },
}
"""The data settings of published nets, for RGB pixels from 0 to 255.

Caffe's mean is the average over the pixels of its mean image (ilsvrc_2012_mean.npy). Caffe squeezes
images into squares of 256 pixels; here the shorter side is resized and the central square cropped.
"""


def describe(weights: Weights) -> dict[str, str]:
    """The description as text: the variant, three counts, and the rest as JSON where known."""
    known = {
        "class_names": weights.class_names,
        "preprocessing": weights.preprocessing,
        "changes": dict(weights.changes) or None,
    }
    return {
        "variant": weights.known_variant,
        "towers": str(weights.towers),
        "classes": str(weights.classes),
        "channels": str(weights.channels),
        **{key: json.dumps(value) for key, value in known.items() if value is not None},
    }


def described_weights(
    path: Path, tensors: dict[str, Tensor], description: Mapping[str, str]
) -> Weights:
    """The weights in a file that carries a ``description``.

    Towers, classes and channels follow from the tensors. Raises ReportedError when the description
    is not valid or the tensors are of another net.
    """
    try:
        known = {
            key: json.loads(description[key])
            for key in ("class_names", "preprocessing", "changes")
            if key in description
        }
        names = known.get("class_names", [])
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ValueError("class_names is not a list of names")
        if not isinstance(description.get("variant", ""), str):
            raise ValueError("variant is not a name")
        for key in ("preprocessing", "changes"):
            if not isinstance(known.get(key, {}), dict):
                raise ValueError(f"{key} is not a mapping")
    except (TypeError, ValueError, RecursionError) as error:
        raise ReportedError(
            f"the description in {path} is not valid ({error}): write the file with convert.py"
        ) from None
    return make_weights(path, tensors, description.get("variant"), **known)


def published_weights(
    path: Path, tensors: dict[str, Tensor], origin: str, variant: str | None
) -> Weights:
    """The weights in a file of ``origin``, a key of ``PREPROCESSING``, which holds tensors alone.

    A net of three channels is given the preprocessing of its origin, one of 1000 classes ImageNet's
    class names. Raises ReportedError when the tensors are of another net.
    """
    weights = make_weights(path, tensors, variant)
    return replace(
        weights,
        class_names=_imagenet_classes() if weights.classes == 1000 else None,
        preprocessing=PREPROCESSING[origin] if weights.channels == 3 else None,
    )


def _imagenet_classes() -> list[str]:
    """ImageNet's class names, in the order that torchvision and Caffe share."""
    from torchvision.models import AlexNet_Weights

    return list(AlexNet_Weights.IMAGENET1K_V1.meta["categories"])
