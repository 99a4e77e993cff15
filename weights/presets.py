"""What is known of the nets that others have published, and their files do not say."""

from typing import Any

from torch import Tensor

TORCHVISION_PREPROCESSING: dict[str, Any] = {
    "size": 224,
    "resize": 256,
    "stored_size": 256,
    "mean": [123.675, 116.28, 103.53],
    "std": [58.395, 57.12, 57.375],
}
"""As torchvision prepares images, in pixels of 0 to 255."""

CAFFE_PREPROCESSING: dict[str, Any] = {
    "size": 227,
    "resize": 256,
    "stored_size": 256,
    "mean": [122.6789, 116.6688, 104.0070],
    "std": 1.0,
}
"""The mean over the pixels of Caffe's mean image (ilsvrc_2012_mean.npy), in the order RGB.

Caffe pulls images into squares of 256 px; here the shorter side is resized and the centre cut out.
"""


def imagenet_classes(tensors: dict[str, Tensor]) -> list[str] | None:
    """ImageNet's names, if these are 1000 classes; torchvision and Caffe order them alike."""
    if len(tensors.get("fc8.bias", ())) != 1000:
        return None
    from torchvision.models import AlexNet_Weights

    return list(AlexNet_Weights.IMAGENET1K_V1.meta["categories"])


def rgb_only(tensors: dict[str, Tensor], preprocessing: dict[str, Any]) -> dict[str, Any] | None:
    """``preprocessing``, if the net reads the three channels it is for."""
    conv1 = tensors.get("conv1.weight")
    return preprocessing if conv1 is not None and conv1.shape[1:2] == (3,) else None
