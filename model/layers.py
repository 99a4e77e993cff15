"""Layers that PyTorch lacks, or has in a slower form."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from model.keyed_random import random_bits
from model.variants import Window
from native.fusion import compiled, fuses

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
"""All are monotonic: each gives the same before a max pooling and after it."""

FEW_CHANNELS = 16
"""Inputs below which a strided convolution is faster on blocks: a vector register holds 16."""


class Dropout(nn.Module):
    """Zero each unit with probability ``p`` and scale the others by 1 / (1 - p).

    ``units`` are the columns' positions in the full layer, so the towers of a replica slice one
    common mask. ``stream`` keeps this layer's masks apart from another's.
    """

    def __init__(self, p: float, units: range, stream: int) -> None:
        super().__init__()
        self.p, self.units, self.stream = p, units, stream

    def forward(self, x: Tensor, keys: Tensor | None) -> Tensor:
        """(B, N) to (B, N); the identity without ``keys`` (B,), in evaluation, or if p = 0."""
        if keys is None or not self.training or self.p == 0:
            return x
        drop = compiled(self.drop) if fuses(x.device) else self.drop
        return drop(x, keys)

    def drop(self, x: Tensor, keys: Tensor) -> Tensor:
        """(B, N) to (B, N), with the masks of these keys."""
        units = torch.arange(self.units.start, self.units.stop, device=x.device)
        kept = random_bits(keys, self.stream, units) >= self.p * 2.0**32
        return x * kept / (1 - self.p)

    @override
    def extra_repr(self) -> str:
        return f"p={self.p}, stream={self.stream}"


class GroupedLinear(nn.Linear):
    """A linear layer with a block-diagonal matrix: each of ``groups`` reads its part of the inputs.

    (B, inputs) to (B, outputs). ``weight`` (outputs, inputs / groups) holds the blocks one below
    the other, so a slice along its first dimension is the layer of some groups.
    """

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__(inputs // groups, outputs)
        self.groups = groups

    @override
    def forward(self, x: Tensor) -> Tensor:
        blocks = (each.chunk(self.groups) for each in (self.weight, self.bias))
        parts = zip(x.chunk(self.groups, 1), *blocks, strict=True)
        return torch.cat([F.linear(part, weight, bias) for part, weight, bias in parts], 1)

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, groups={self.groups}"


def make_conv(inputs: int, outputs: int, window: Window, groups: int = 1) -> nn.Conv2d:
    """The faster form of a convolution with this window."""
    if window.stride > 1 and groups == 1 and inputs < FEW_CHANNELS:
        return SpaceToDepthConv2d(inputs, outputs, window)
    return nn.Conv2d(inputs, outputs, *window, groups=groups)


class SpaceToDepthConv2d(nn.Conv2d):
    """``nn.Conv2d`` with a stride s, computed on blocks of s×s pixels as one pixel each.

    Few input channels leave most of a matrix unit idle: conv1 of RGB images has 3. Space-to-depth
    makes them 3·s² and the stride 1; zeros fill the window up to whole blocks. Same parameters,
    same result. Square windows and strides, one group.
    """

    def __init__(self, inputs: int, outputs: int, window: Window) -> None:
        super().__init__(inputs, outputs, *window)
        self.window = window

    @override
    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, outputs, ``window.out_side(H)``, ``window.out_side(W)``)."""
        if torch.compiler.is_exporting():
            return super().forward(x)  # other runtimes have fast forms of their own
        kernel, stride, padding = self.window
        blocks = -(-kernel // stride)  # that a window covers, in each direction
        missing = blocks * stride - kernel
        ends = []
        for side in (x.shape[3], x.shape[2]):
            blocks_read = self.window.out_side(side) - 1 + blocks
            ends += [padding, blocks_read * stride - side - padding]
        x = F.pad(x, ends)  # (B, C, s·H', s·W'), H' and W' being the blocks that are read
        weight = F.pad(self.weight, (0, missing, 0, missing))  # (outputs, C, s·blocks, s·blocks)
        x = space_to_depth(x, stride)  # (B, s²·C, H', W')
        weight = space_to_depth(weight, stride)  # (outputs, s²·C, blocks, blocks)
        return F.conv2d(x, weight, self.bias)


def space_to_depth(x: Tensor, size: int) -> Tensor:
    """(B, C, H, W) to (B, size²·C, H/size, W/size), in channels-last memory."""
    x = x.permute(0, 2, 3, 1)  # (B, H, W, C)
    x = x.unflatten(1, (-1, size)).unflatten(3, (-1, size))  # (B, H/size, size, W/size, size, C)
    x = x.permute(0, 1, 3, 2, 4, 5).flatten(3)  # (B, H/size, W/size, size²·C)
    return x.permute(0, 3, 1, 2)
