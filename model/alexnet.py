"""One definition of AlexNet, for every variant and any number of towers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from common.errors import ReportedError
from model.layers import ACTIVATIONS, Dropout
from model.normalization import LocalResponseNorm
from model.placement import Layers, Placement, Reads
from model.pooling import ActivatedPool
from model.variants import MEETINGS, Variant

FEATURES = ("conv1", "conv2", "conv3", "conv4", "conv5")
CLASSIFIER = ("fc6", "fc7", "fc8")
"""The layers with parameters, by stage."""
SMALLEST_SIDE = 64
"""The smallest side of an image, in pixels, for every variant."""


class AlexNet(nn.Module):
    """The eight layers of Krizhevsky et al. 2012, figure 2, for any number of towers.

    ``placement`` builds the layers where they live. Towers meet at conv3, fc6 and fc7, where the
    variant says so, and at fc8. The net has two stages: ``features`` (conv1 to conv5) and
    ``classify`` (fc6 to fc8). The towers must divide the width of every layer.
    """

    def __init__(self, variant: Variant, classes: int, channels: int, placement: Placement) -> None:
        super().__init__()
        features, classifier = placement.features, placement.classifier
        self.variant, self.placement = variant, placement
        c1, c2, c3, c4, c5 = variant.convolutions
        inputs, hidden = c5 * variant.features**2, variant.hidden
        w1, w2, w3, w4, w5 = variant.windows
        reads = {name: Reads.ALL if name in variant.meet else Reads.OWN for name in MEETINGS}
        self.conv1 = features.first_conv(channels, c1, w1)
        self.conv2 = features.conv("conv2", c1, c2, w2, Reads.OWN)
        self.conv3 = features.conv("conv3", c2, c3, w3, reads["conv3"])
        self.conv4 = features.conv("conv4", c3, c4, w4, Reads.OWN)
        self.conv5 = features.conv("conv5", c4, c5, w5, Reads.OWN)
        self.fc6 = placement.first_linear(inputs, hidden, reads["fc6"])
        self.fc7 = classifier.linear("fc7", hidden, hidden, reads["fc7"])
        self.fc8 = classifier.last_linear(hidden, classes)
        self.norm_pool1 = _norm_pool("norm1", variant, features)
        self.norm_pool2 = _norm_pool("norm2", variant, features)
        self.pool = ActivatedPool(None, variant.activation, variant.pool)
        before, after6, after7 = variant.dropout
        self.dropout5 = Dropout(before, features.units(inputs), stream=5)
        self.dropout6 = Dropout(after6, classifier.units(hidden), stream=6)
        self.dropout7 = Dropout(after7, classifier.units(hidden), stream=7)

    def forward(
        self, images: Tensor, keys: Tensor | None = None, shares: Sequence[int] | None = None
    ) -> Tensor:
        """Logits (B, classes) of standardized images (B, C, H, W), H and W at least 64 px.

        ``keys`` (B,) choose each image's dropout masks; without them nothing is dropped.
        ``shares`` are the numbers of images of all replicas that share a classifier; without them,
        each has as many as this one.
        """
        x = self.placement.to_classifier(self.features(images, keys), shares)
        return self.classify(x, keys, shares)

    def features(self, images: Tensor, keys: Tensor | None = None) -> Tensor:
        """What fc6 reads of own images (B, C, H, W): (B, this rank's units)."""
        if min(images.shape[-2:]) < SMALLEST_SIDE:
            raise ReportedError(
                f"images of {images.shape[-2]}×{images.shape[-1]} px are too small for AlexNet: "
                f"make each side at least {SMALLEST_SIDE} px"
            )
        f = ACTIVATIONS[self.variant.activation]
        x = self.norm_pool1(self.conv1(images))  # each pooling begins with f
        x = self.norm_pool2(self.conv2(x))
        x = f(self.conv3(x))
        x = f(self.conv4(x))
        x = self.pool(self.conv5(x))
        return self.dropout5(resize(x, self.variant.features).flatten(1), keys)

    def classify(
        self, x: Tensor, keys: Tensor | None = None, shares: Sequence[int] | None = None
    ) -> Tensor:
        """Own images' logits (B, classes), from the result of ``placement.to_classifier``.

        ``keys`` are those of all images in ``x``.
        """
        f = ACTIVATIONS[self.variant.activation]
        x = self.dropout6(f(self.fc6(x)), keys)
        x = self.dropout7(f(self.fc7(x)), keys)
        return self.placement.logits(self.fc8(x), shares)

    def stages(self) -> tuple["Stage", "Stage"]:
        """(features, classifier): the net in two modules, over the same layers."""
        return (
            Stage(self.features, {name: getattr(self, name) for name in FEATURES}),
            Stage(self.classify, {name: getattr(self, name) for name in CLASSIFIER}),
        )


class Stage(nn.Module):
    """Some layers of a net as a module of its own, which ``DistributedDataParallel`` can wrap."""

    def __init__(self, forward: Callable[..., Tensor], layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.run = forward

    @override
    def forward(self, *inputs: Any) -> Tensor:
        return self.run(*inputs)


def _norm_pool(name: str, variant: Variant, layers: Layers) -> nn.Module:
    """Activation, normalisation if the variant has one, and pooling, in the variant's order."""
    plain = ActivatedPool(None, variant.activation, variant.pool)
    if not variant.local_response_norm:
        return plain
    reads = Reads.ALL if variant.lrn_spans_towers else Reads.OWN
    norm = LocalResponseNorm(layers.groups_here(reads), k=variant.lrn_k)
    if variant.pools_first:
        return nn.Sequential(plain, layers.normalizing(name, norm, reads))
    pool = ActivatedPool(norm, variant.activation, variant.pool)
    return layers.normalizing(name, pool, reads)


def resize(x: Tensor, side: int) -> Tensor:
    """Adaptive average pooling, (B, C, H, W) to (B, C, side²), as one matrix product.

    ``F.adaptive_avg_pool2d`` takes longer, above all in backward.
    """
    if x.shape[2:] == (side, side):
        return x.flatten(2)
    pixels = x.shape[2] * x.shape[3]
    each = torch.eye(pixels, device=x.device).view(pixels, 1, *x.shape[2:])  # (H·W, 1, H, W)
    weights = F.adaptive_avg_pool2d(each, side).flatten(1)  # (H·W, side²)
    return x.flatten(2) @ weights.to(x.dtype)
