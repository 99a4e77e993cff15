"""A fully connected layer in groups, as ``nn.Conv2d`` has them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override


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
