"""The net on several ranks: each builds its shards, and layers gather what they lack."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from distributed.collectives import (
    Ranks,
    all_reduce,
    border_widths,
    exchange_borders,
    gather,
    gather_images,
    sum_to_owners,
)
from distributed.device import to_device
from distributed.mesh import Mesh, StageRanks
from distributed.overlap import gather_and_apply
from model.alexnet import FEATURES
from model.normalization import WINDOW
from model.placement import Layers, Placement, Reads
from model.variants import Window


class Sharding(NamedTuple):
    """How the ranks hold one parameter; all that is done to it reads this row.

    It is sliced along ``dim`` (None: whole on each rank) over ``slices``, which together hold one
    copy. ``copies`` hold the same slice, and their gradients are summed.
    """

    dim: int | None
    slices: Ranks
    copies: Ranks

    def shard(self, full: Tensor) -> Tensor:
        """This rank's slice of a full tensor."""
        if self.dim is None:
            return full
        return full.chunk(self.slices.size, self.dim)[self.slices.index]

    def unshard(self, part: Tensor) -> Tensor:
        """The full tensor from its slices; all of them must call it."""
        if self.dim is None or self.slices.size == 1:
            return part
        rows = part.movedim(self.dim, 0).contiguous()
        whole = rows.new_empty(self.slices.size * len(rows), *rows.shape[1:])
        dist.all_gather(list(whole.chunk(self.slices.size)), rows, group=self.slices.group)
        return whole.movedim(0, self.dim)

    def full_shape(self, shape: torch.Size) -> torch.Size:
        """The full shape of a tensor that has ``shape`` here."""
        return torch.Size(s * self.slices.size if d == self.dim else s for d, s in enumerate(shape))


class MeshPlacement(Placement):
    """This rank's shards of a net on a mesh.

    Parameters are slices of the full tensors. With ``overlap`` traffic is hidden behind the work of
    the layer that reads it; without it the plain collectives are used, to the same result.
    """

    def __init__(self, mesh: Mesh, *, overlap: bool = True) -> None:
        self.mesh, self.overlap = mesh, overlap
        towers = mesh.plan.towers
        self.features = ShardedLayers(towers, mesh.features, overlap)
        self.classifier = ShardedLayers(towers, mesh.classifier, overlap)
        self.fc6_inputs = range(0)

    @override
    def first_linear(self, inputs: int, outputs: int, reads: Reads) -> nn.Linear:
        self.fc6_inputs = self.classifier.inputs(inputs, reads)
        is_hybrid = self.mesh.plan.feeds > 1
        return self.classifier.linear("fc6", inputs, outputs, reads, gathered=is_hybrid)

    @override
    def to_classifier(self, x: Tensor, shares: Sequence[int] | None = None) -> Tensor:
        """In a hybrid: the features of all images of ``shares``, (sum of shares, fc6's inputs)."""
        if self.mesh.plan.feeds == 1:
            return x
        ranks = self.mesh.classifier.slices.at("fc6")
        shares = shares or [len(x)] * self.mesh.plan.feeds
        return self.join(gather_images(x, self.rows(shares), ranks), shares)

    @override
    def logits(self, partial: Tensor, shares: Sequence[int] | None = None) -> Tensor:
        """The sum of all ranks' parts: of own images, on each rank that owns them."""
        ranks = self.mesh.classifier.slices.at("logits")
        if ranks.size == 1:
            return partial
        if self.mesh.plan.feeds == 1:
            return all_reduce(partial, ranks)
        shares = shares or [len(partial) // self.mesh.plan.feeds] * self.mesh.plan.feeds
        return sum_to_owners(partial, shares, ranks, self.mesh.feeders.at("logits"))

    def rows(self, shares: Sequence[int]) -> list[int]:
        """The images of each rank of the classifier: all shards of a replica have its share."""
        return [share for share in shares for _ in range(self.mesh.plan.features.shards)]

    def join(self, gathered: Tensor, shares: Sequence[int]) -> Tensor:
        """What fc6 reads, from the features of each rank (rows, units) one below the other."""
        shards = self.mesh.plan.features.shards
        if shards > 1:
            parts = gathered.split(self.rows(shares))
            replicas = [parts[first : first + shards] for first in range(0, len(parts), shards)]
            gathered = torch.cat([torch.cat(replica, 1) for replica in replicas])
        return gathered[:, self.fc6_inputs.start : self.fc6_inputs.stop]

    def sharding(self, name: str) -> Sharding:
        """How the ranks hold the parameter with this name."""
        stage = self.mesh.features if name.split(".")[0] in FEATURES else self.mesh.classifier
        dim = {"fc8.weight": 1, "fc8.bias": None}.get(name, 0)
        return Sharding(dim, stage.slices, stage.copies)

    def sum_over_slices(self, names: Sequence[str], sums: Tensor) -> Tensor:
        """Sums over full parameters, from those over this rank's parts of them: (…, names).

        All slices of a stage whose parameters are named must call it.
        """
        shardings = [self.sharding(name) for name in names]
        totals = sums.clone()
        for slices in (self.mesh.features.slices, self.mesh.classifier.slices):
            held = [s.slices is slices and s.dim is not None for s in shardings]
            if slices.size > 1 and any(held):
                places = torch.tensor([place for place, is_held in enumerate(held) if is_held])
                own = to_device(places, sums.device)
                part = totals.index_select(-1, own)
                with self.mesh.timer.whereabouts.inside("sum over slices"):
                    dist.all_reduce(part, group=slices.group)
                totals.index_copy_(-1, own, part)
        return totals

    @override
    def full_shape(self, name: str, shape: torch.Size) -> torch.Size:
        return self.sharding(name).full_shape(shape)

    @override
    def shard(self, name: str, full: Tensor) -> Tensor:
        return self.sharding(name).shard(full)

    @override
    def unshard(self, name: str, part: Tensor) -> Tensor:
        return self.sharding(name).unshard(part)


class ShardedLayers(Layers):
    """The layers of a stage; those whose inputs are spread over ranks gather them."""

    def __init__(self, towers: int, ranks: StageRanks, overlap: bool) -> None:
        super().__init__(towers, ranks.slices.size, ranks.slices.index)
        self.ranks, self.overlap = ranks, overlap

    def _meeting(self, name: str, reads: Reads) -> Ranks:
        """The ranks that share a group of a layer's units."""
        return (self.ranks.slices if reads is Reads.ALL else self.ranks.tower).at(name)

    @override
    def gathering_conv(
        self, name: str, inputs: int, outputs: int, window: Window, reads: Reads
    ) -> nn.Conv2d:
        return GatheringConv2d(inputs, outputs, window, self._meeting(name, reads), self.overlap)

    @override
    def gathering_linear(self, name: str, inputs: int, outputs: int, reads: Reads) -> nn.Linear:
        return GatheringLinear(inputs, outputs, self._meeting(name, reads), self.overlap)

    @override
    def last_linear(self, inputs: int, classes: int) -> nn.Linear:
        if self.shards == 1:
            return nn.Linear(inputs, classes)
        return PartialLinear(len(self.units(inputs)), classes, adds_bias=self.index == 0)

    @override
    def normalizing(self, name: str, module: nn.Module, reads: Reads) -> nn.Module:
        if self.spread(reads) == 1:
            return module
        return Bordered(module, WINDOW // 2, self._meeting(name, reads))


class GatheringConv2d(nn.Conv2d):
    """A convolution that reads the channels of all ``ranks``. Input (B, own channels, H, W)."""

    def __init__(
        self, inputs: int, outputs: int, window: Window, ranks: Ranks, overlap: bool
    ) -> None:
        super().__init__(inputs, outputs, *window)
        self.ranks, self.overlap = ranks, overlap

    @override
    def forward(self, x: Tensor) -> Tensor:
        return _read(self, super().forward, x)


class GatheringLinear(nn.Linear):
    """A fully connected layer that reads the units of all ``ranks``. Input (B, own units)."""

    def __init__(self, inputs: int, outputs: int, ranks: Ranks, overlap: bool) -> None:
        super().__init__(inputs, outputs)
        self.ranks, self.overlap = ranks, overlap

    @override
    def forward(self, x: Tensor) -> Tensor:
        return _read(self, super().forward, x)


def _read(
    layer: GatheringConv2d | GatheringLinear, apply: Callable[[Tensor], Tensor], x: Tensor
) -> Tensor:
    """``apply``, a layer's own operation, to the channels of all its ranks."""
    if layer.overlap:
        return gather_and_apply(layer, x, layer.ranks)
    return apply(gather(x, layer.ranks))


class Bordered(nn.Module):
    """``module`` for own channels that also reads ``width`` channels of each neighbouring rank."""

    def __init__(self, module: nn.Module, width: int, ranks: Ranks) -> None:
        super().__init__()
        self.module, self.width, self.ranks = module, width, ranks

    @override
    def forward(self, x: Tensor) -> Tensor:
        left, _ = border_widths(self.width, self.ranks)
        out: Tensor = self.module(exchange_borders(x, self.width, self.ranks))
        return out[:, left : left + x.shape[1]]


class PartialLinear(nn.Linear):
    """One shard's part of a layer whose outputs are summed over the shards.

    The bias is replicated. One shard adds it; the others add zero, so that every shard's copy gets
    the whole gradient and the copies stay equal.
    """

    def __init__(self, inputs: int, outputs: int, *, adds_bias: bool) -> None:
        super().__init__(inputs, outputs)
        self.adds_bias = adds_bias

    @override
    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias if self.adds_bias else self.bias - self.bias.detach()
        return F.linear(x, self.weight, bias)
