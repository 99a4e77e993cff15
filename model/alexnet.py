"""One definition of AlexNet, for every variant and any number of towers."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import ReportedError
from model.layers import ACTIVATIONS, Dropout
from model.normalization import LocalResponseNorm
from model.pooling import ActivatedPool
from model.towers import Towers
from model.variants import MEETINGS, Meeting, Variant

SMALLEST_SIDE = 64
"""The smallest side of an image, in pixels, for every variant."""


class AlexNet(nn.Module):
    """The eight layers of Krizhevsky et al. 2012, figure 2, for any number of towers.

    ``towers`` builds the layers. They meet at conv3, fc6 and fc7, where the variant says so, and at
    fc8. Raises ReportedError when the variant names an unknown activation or meeting, when the
    towers do not divide a layer's width, and when a net that normalises across its towers has them
    in several processes.
    """

    def __init__(self, variant: Variant, classes: int, channels: int, towers: Towers) -> None:
        super().__init__()
        check_variant(variant, towers)
        self.variant, self.towers = variant, towers
        c1, c2, c3, c4, c5 = variant.convolutions
        inputs, hidden = c5 * variant.features**2, variant.hidden
        w1, w2, w3, w4, w5 = variant.windows
        self.conv1 = towers.conv(channels, c1, w1, meets=True)
        self.conv2 = towers.conv(c1, c2, w2)
        self.conv3 = towers.conv(c2, c3, w3, meets="conv3" in variant.meet)
        self.conv4 = towers.conv(c3, c4, w4)
        self.conv5 = towers.conv(c4, c5, w5)
        self.fc6 = towers.linear(inputs, hidden, meets="fc6" in variant.meet)
        self.fc7 = towers.linear(hidden, hidden, meets="fc7" in variant.meet)
        self.fc8 = towers.classifier(hidden, classes)
        norm = None
        if variant.local_response_norm:
            apart = 1 if variant.lrn_spans_towers else len(towers.here)
            norm = LocalResponseNorm(apart, k=variant.lrn_k)
        self.pool = ActivatedPool(None, variant.activation, variant.pool)
        self.norm_pool: nn.Module = ActivatedPool(norm, variant.activation, variant.pool)
        if norm and variant.pools_first:
            self.norm_pool = nn.Sequential(self.pool, norm)
        before, after6, after7 = variant.dropout
        self.dropout5 = Dropout(before, towers.units(inputs), stream=5)
        self.dropout6 = Dropout(after6, towers.units(hidden), stream=6)
        self.dropout7 = Dropout(after7, towers.units(hidden), stream=7)

    def forward(self, images: Tensor, keys: Tensor | None = None) -> Tensor:
        """Compute the logits (B, classes) of standardized images (B, C, H, W), H and W at least 64.

        ``keys`` (B,) choose each image's dropout masks; without them nothing is dropped.
        """
        if min(images.shape[-2:]) < SMALLEST_SIDE:
            raise ReportedError(
                f"images of {images.shape[-2]}×{images.shape[-1]} px are too small for AlexNet: "
                f"make each side at least {SMALLEST_SIDE} px"
            )
        f = ACTIVATIONS[self.variant.activation]
        x = self.norm_pool(self.conv1(images))  # each pooling begins with f
        x = self.norm_pool(self.conv2(x))
        x = f(self.meet("conv3", x))
        x = f(self.conv4(x))
        x = self.pool(self.conv5(x))
        x = self.dropout5(resize(x, self.variant.features).flatten(1), keys)
        x = self.dropout6(f(self.meet("fc6", x)), keys)
        x = self.dropout7(f(self.meet("fc7", x)), keys)
        return self.towers.sum(self.fc8(x))

    def meet(self, name: Meeting, x: Tensor) -> Tensor:
        """The output of layer ``name``, which reads every tower if the variant says so.

        ``x`` (B, C, …) holds this process's channels.
        """
        layer = getattr(self, name)
        if name in self.variant.meet:
            return self.towers.meet(layer, x)
        out: Tensor = layer(x)
        return out


def check_variant(variant: Variant, towers: Towers) -> None:
    """Raise ReportedError if the net cannot be built, or not with these towers."""
    if variant.activation not in ACTIVATIONS:
        raise ReportedError(
            f"net.activation is {variant.activation}: name one of {', '.join(ACTIVATIONS)}"
        )
    for layer in variant.meet:
        if layer not in MEETINGS:
            raise ReportedError(f"net.meet names {layer}: name any of {', '.join(MEETINGS)}")
    for number, width in enumerate(variant.convolutions, start=1):
        towers.check_width(f"conv{number}", width)
    towers.check_width("fc6", variant.hidden)
    if variant.lrn_spans_towers and len(towers.here) < towers.count:
        raise ReportedError(
            "this variant normalises across its towers, which must be in one process for that: "
            "set placement=local"
        )


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
