"""A strided convolution as a dense one."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override


class FoldedConv2d(nn.Conv2d):
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
        return F.conv2d(fold(F.pad(x, ends), stride), fold(weight, stride), self.bias)


def fold(x: Tensor, size: int) -> Tensor:
    """(B, C, H, W) to (B, size²·C, H/size, W/size), in channels-last memory."""
    blocks = x.permute(0, 2, 3, 1).unflatten(1, (-1, size)).unflatten(3, (-1, size))
    return blocks.permute(0, 1, 3, 2, 4, 5).flatten(3).permute(0, 3, 1, 2)
