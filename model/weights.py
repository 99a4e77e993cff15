"""A net's weights from tensors of the local form, and their names elsewhere."""

import torch
from torch import Tensor

from model.alexnet import AlexNet
from model.errors import InputError

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
    """The other way round; raises InputError for the state of another net."""
    try:
        return {
            f"{ours}.{kind}": state[f"{theirs}.{kind}"]
            for ours, theirs in TORCHVISION_LAYERS.items()
            for kind in ("weight", "bias")
        }
    except KeyError as missing:
        raise InputError(f"these are not torchvision's alexnet weights: no {missing}") from None


@torch.no_grad()
def fill(model: AlexNet, tensors: dict[str, Tensor]) -> None:
    """Set those parameters, or what the model holds of them, from ``tensors`` of the local form."""
    for name, tensor in tensors.items():
        model.get_parameter(name).copy_(model.towers.shard(name, tensor))
