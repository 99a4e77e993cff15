"""AlexNet, in every form it has had, as one definition."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import ReportedError
from model.layers import ACTIVATIONS, Dropout
from model.normalization import LocalResponseNorm
from model.pooling import ActivatedPool
from model.towers import ConvShape, Towers
from model.variants import Meeting, Variant

SMALLEST_SIDE = 64


class AlexNet(nn.Module):
    """The eight layers of Krizhevsky et al. 2012, figure 2, for any number of towers.

    ``towers`` builds the layers and answers what it takes to meet: at conv3, fc6 and fc7, where the
    variant says so, at fc8, and nowhere else. Raises ReportedError when the towers do not divide a
    layer's width, or are apart in a net that normalises across them.
    """

    def __init__(self, variant: Variant, classes: int, channels: int, towers: Towers) -> None:
        super().__init__()
        for number, width in enumerate(variant.convolutions, start=1):
            towers.check_width(f"conv{number}", width)
        towers.check_width("fc6", variant.hidden)
        if variant.lrn_spans_towers and len(towers.here) < towers.count:
            raise ReportedError(
                "this net normalises across its towers, which must be in one process for that: "
                "set placement=local"
            )
        self.variant, self.towers = variant, towers
        c1, c2, c3, c4, c5 = variant.convolutions
        inputs, hidden = c5 * variant.features**2, variant.hidden
        self.conv1 = towers.conv(channels, c1, ConvShape(11, 4, variant.conv1_padding), meets=True)
        self.conv2 = towers.conv(c1, c2, ConvShape(5, 1, 2))
        self.conv3 = towers.conv(c2, c3, ConvShape(3, 1, 1), meets="conv3" in variant.meet)
        self.conv4 = towers.conv(c3, c4, ConvShape(3, 1, 1))
        self.conv5 = towers.conv(c4, c5, ConvShape(3, 1, 1))
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
        """Logits (B, classes) of normalised images (B, C, H, W), H and W at least 64.

        ``keys`` (B,) name each image's dropout masks; without them nothing is dropped.
        """
        if min(images.shape[-2:]) < SMALLEST_SIDE:
            raise ReportedError(
                f"images of {images.shape[-2]}×{images.shape[-1]} px are too small for AlexNet: "
                f"the smallest side is {SMALLEST_SIDE} px"
            )
        f = ACTIVATIONS[self.variant.activation]
        x = self.norm_pool(self.conv1(images))  # each pool begins with f
        x = self.norm_pool(self.conv2(x))
        x = f(self.meet("conv3", x))
        x = f(self.conv4(x))
        x = self.pool(self.conv5(x))
        x = self.dropout5(resize(x, self.variant.features).flatten(1), keys)
        x = self.dropout6(f(self.meet("fc6", x)), keys)
        x = self.dropout7(f(self.meet("fc7", x)), keys)
        return self.towers.sum(self.fc8(x))

    def meet(self, name: Meeting, x: Tensor) -> Tensor:
        """What a layer makes of every tower's channels or, apart, of its own tower's."""
        layer = getattr(self, name)
        if name in self.variant.meet:
            return self.towers.meet(layer, x)
        out: Tensor = layer(x)
        return out


def resize(x: Tensor, side: int) -> Tensor:
    """Adaptive average pooling, (B, C, H, W) to (B, C, side²), as one matrix product.

    ``F.adaptive_avg_pool2d`` takes longer, in backward above all.
    """
    pixels = x.shape[2] * x.shape[3]
    if x.shape[2:] == (side, side):
        return x.flatten(2)
    each = torch.eye(pixels, device=x.device).view(pixels, 1, *x.shape[2:])
    return x.flatten(2) @ F.adaptive_avg_pool2d(each, side).flatten(1).to(x.dtype)
