"""One tower per rank: the split placement."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from distributed.collectives import Ranks, all_reduce, gather, gather_and_apply
from distributed.timer import StepTimer
from model.layers import make_conv
from model.towers import Towers
from model.variants import Window


class SplitTowers(Towers):
    """This rank's tower of ``group.size()``; its parameters are slices of the full tensors.

    ``timer`` counts the cost of the meetings. With ``overlap`` their traffic is hidden behind the
    layer's work; without it the plain collectives are used, to the same result.
    """

    def __init__(self, group: dist.ProcessGroup, timer: StepTimer, *, overlap: bool = True) -> None:
        super().__init__(group.size())
        self.ranks, self.index, self.overlap = Ranks(group, timer), group.rank(), overlap

    @override
    def conv(self, inputs: int, outputs: int, window: Window, *, meets: bool = False) -> nn.Conv2d:
        return make_conv(inputs if meets else inputs // self.count, outputs // self.count, window)

    @override
    def linear(self, inputs: int, outputs: int, *, meets: bool = False) -> nn.Linear:
        return nn.Linear(inputs if meets else inputs // self.count, outputs // self.count)

    @override
    def classifier(self, inputs: int, classes: int) -> nn.Linear:
        return PartialLinear(inputs // self.count, classes, adds_bias=self.index == 0)

    @override
    def meet(self, layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
        if self.overlap:
            return gather_and_apply(layer, x, self.ranks)
        out: Tensor = layer(gather(x, self.ranks))
        return out

    @override
    def sum(self, logits: Tensor) -> Tensor:
        return all_reduce(logits, self.ranks)

    @property
    @override
    def here(self) -> range:
        return range(self.index, self.index + 1)

    @override
    def full_shape(self, name: str, shape: torch.Size) -> torch.Size:
        dim = self.shard_dim(name)
        return torch.Size(s * self.count if d == dim else s for d, s in enumerate(shape))

    @override
    def shard(self, name: str, full: Tensor) -> Tensor:
        dim = self.shard_dim(name)
        return full if dim is None else full.chunk(self.count, dim)[self.index]

    @override
    def unshard(self, name: str, part: Tensor) -> Tensor:
        dim = self.shard_dim(name)
        if dim is None:
            return part
        rows = part.movedim(dim, 0).contiguous()
        whole = rows.new_empty(self.count * len(rows), *rows.shape[1:])
        dist.all_gather(list(whole.chunk(self.count)), rows, group=self.ranks.group)
        return whole.movedim(0, dim)


class PartialLinear(nn.Linear):
    """One tower's part of a layer whose outputs are summed over the towers.

    The bias is replicated. One tower adds it; the others add zero, so that every tower's copy gets
    the whole gradient and the copies stay equal.
    """

    def __init__(self, inputs: int, outputs: int, *, adds_bias: bool) -> None:
        super().__init__(inputs, outputs)
        self.adds_bias = adds_bias

    @override
    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias if self.adds_bias else self.bias - self.bias.detach()
        return F.linear(x, self.weight, bias)
