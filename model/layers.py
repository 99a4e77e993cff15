"""The layers that PyTorch lacks, or has in a slower form."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from model.keyed_random import random_bits
from model.variants import Activation

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
"""None of them ever falls, so each may change places with a maximum."""


class Dropout(nn.Module):
    """Zero each unit with probability ``p`` and scale the others by 1 / (1 - p).

    ``units`` are the places in the full layer of the columns computed here, so the towers of a
    replica slice one common mask. ``stream`` tells this layer's masks from another's.
    """

    def __init__(self, p: float, units: range, stream: int) -> None:
        super().__init__()
        self.p, self.units, self.stream = p, units, stream

    def forward(self, x: Tensor, keys: Tensor | None) -> Tensor:
        """(B, N) to (B, N); the identity without ``keys`` (B,), in evaluation, and with p = 0."""
        if keys is None or not self.training or self.p == 0:
            return x
        units = torch.arange(self.units.start, self.units.stop, device=x.device)
        kept = random_bits(keys, self.stream, units) >= self.p * 2.0**32
        return x * kept / (1 - self.p)

    @override
    def extra_repr(self) -> str:
        return f"p={self.p}, stream={self.stream}"


class GroupedLinear(nn.Linear):
    """``groups`` equal parts of the inputs, each with outputs of its own: a block-diagonal matrix.

    (B, inputs) to (B, outputs). ``weight`` holds the blocks one below the other: (outputs,
    inputs / groups), so a slice along its first dimension is the layer of some groups.
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


class SpaceToDepthConv2d(nn.Conv2d):
    """``nn.Conv2d`` with a stride s, computed on blocks of s×s pixels as one pixel each.

    Few input channels leave most of a matrix unit idle: conv1 of RGB images has 3. Folding the
    blocks into channels makes them 3·s², and the stride 1; the window is filled up with zeros to
    whole blocks. Same parameters, same result. Square windows and strides, one group.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding)
        self.window = kernel, stride, padding

    @override
    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return super().forward(x)  # whoever runs the exported net knows better
        kernel, stride, padding = self.window
        blocks = -(-kernel // stride)
        ends = []
        for side in (x.shape[3], x.shape[2]):
            outputs = (side + 2 * padding - kernel) // stride + 1
            ends += [padding, (outputs - 1 + blocks) * stride - side - padding]
        missing = blocks * stride - kernel
        weight = F.pad(self.weight, (0, missing, 0, missing))
        return F.conv2d(
            space_to_depth(F.pad(x, ends), stride), space_to_depth(weight, stride), self.bias
        )


def space_to_depth(x: Tensor, size: int) -> Tensor:
    """(B, C, H, W) to (B, size²·C, H/size, W/size), in channels-last memory."""
    blocks = x.permute(0, 2, 3, 1).unflatten(1, (-1, size)).unflatten(3, (-1, size))
    return blocks.permute(0, 1, 3, 2, 4, 5).flatten(3).permute(0, 3, 1, 2)
