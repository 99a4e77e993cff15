"""One rank's part of a net under a plan, alone: what other ranks would send is imitated.

It does the work of that rank and sends nothing, so its time is what the rank computes. Its numbers
mean nothing: the channels and the images of others are copies of its own.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from distributed.plan import Plan
from model.normalization import WINDOW
from model.placement import Layers, Placement, Reads
from model.variants import Window


class ImitatedPlacement(Placement):
    """Rank 0's part of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.features = _Layers(plan.towers, plan.features.shards)
        self.classifier = _Layers(plan.towers, plan.classifier.shards)
        self.fc6_inputs = range(0)

    @override
    def first_linear(self, inputs: int, outputs: int, reads: Reads) -> nn.Linear:
        self.fc6_inputs = self.classifier.inputs(inputs, reads)
        return self.classifier.linear("fc6", inputs, outputs, reads, gathered=self.plan.feeds > 1)

    @override
    def to_classifier(self, x: Tensor, shares: Sequence[int] | None = None) -> Tensor:
        if self.plan.feeds == 1:
            return x
        everyone = x.repeat(self.plan.feeds, self.plan.features.shards)
        return everyone[:, self.fc6_inputs.start : self.fc6_inputs.stop]

    @override
    def logits(self, partial: Tensor, shares: Sequence[int] | None = None) -> Tensor:
        return partial.unflatten(0, (self.plan.feeds, -1)).sum(0)


class _Layers(Layers):
    @override
    def gathering_conv(
        self, name: str, inputs: int, outputs: int, window: Window, reads: Reads
    ) -> nn.Conv2d:
        return _Conv2d(inputs, outputs, window, self.spread(reads))

    @override
    def gathering_linear(self, name: str, inputs: int, outputs: int, reads: Reads) -> nn.Linear:
        return _Linear(inputs, outputs, self.spread(reads))

    @override
    def last_linear(self, inputs: int, classes: int) -> nn.Linear:
        return nn.Linear(len(self.units(inputs)), classes)

    @override
    def normalizing(self, name: str, module: nn.Module, reads: Reads) -> nn.Module:
        return module if self.spread(reads) == 1 else _Bordered(module)


class _Conv2d(nn.Conv2d):
    """A convolution of the channels of ``ranks``, one after the other, as when they arrive."""

    def __init__(self, inputs: int, outputs: int, window: Window, ranks: int) -> None:
        super().__init__(inputs, outputs, *window)
        self.ranks = ranks

    @override
    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.weight.chunk(self.ranks, 1)
        out = F.conv2d(x, first, self.bias, self.stride, self.padding)
        for weight in others:
            out = out + F.conv2d(x, weight, None, self.stride, self.padding)
        return out


class _Linear(nn.Linear):
    """A fully connected layer of the units of ``ranks``, one after the other."""

    def __init__(self, inputs: int, outputs: int, ranks: int) -> None:
        super().__init__(inputs, outputs)
        self.ranks = ranks

    @override
    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.weight.chunk(self.ranks, 1)
        out = F.linear(x, first, self.bias)
        for weight in others:
            out = out + F.linear(x, weight)
        return out


class _Bordered(nn.Module):
    """``module`` with the border channels of one neighbour."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    @override
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.module(torch.cat([x, x[:, : WINDOW // 2]], 1))
        return out[:, : x.shape[1]]
