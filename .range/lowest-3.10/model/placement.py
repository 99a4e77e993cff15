"""The interface that builds the net's layers where they live, and its one-process form.

A tower is one of the parallel streams of the *network*: it says which inputs a layer reads. A shard
is one rank's slice of a layer's units: it says where they are. ``AlexNet`` is written once against
``Placement``; ``distributed.placement`` has the form with several ranks.
"""

from collections.abc import Sequence
from enum import Enum, auto

import torch
from torch import Tensor, nn

from model.layers import GroupedLinear, make_conv
from model.variants import Window


class Reads(Enum):
    """The inputs of a layer's unit."""

    OWN = auto()
    """The channels of its own tower."""
    ALL = auto()
    """The channels of every tower, which meet here."""


class Layers:
    """Builds the layers of one stage: shard ``index`` of ``shards``, for a net of ``towers``.

    Widths are of the whole net. A shard holds an equal, contiguous slice of each layer's units.
    Where its units read channels of other shards, a layer gathers them by itself, which only a
    subclass with ranks can do.
    """

    def __init__(self, towers: int, shards: int = 1, index: int = 0) -> None:
        self.towers, self.shards, self.index = towers, shards, index

    def groups(self, reads: Reads) -> int:
        """Groups of a layer's units, each of which reads inputs of its own."""
        return self.towers if reads is Reads.OWN else 1

    def groups_here(self, reads: Reads) -> int:
        """Groups of units on this shard."""
        return max(1, self.groups(reads) // self.shards)

    def spread(self, reads: Reads) -> int:
        """The number of shards that share a group's units; 1 where groups are whole."""
        return max(1, self.shards // self.groups(reads))

    def units(self, width: int) -> range:
        """This shard's units, of a layer of ``width``."""
        each = width // self.shards
        return range(self.index * each, (self.index + 1) * each)

    def inputs(self, width: int, reads: Reads) -> range:
        """The inputs that this shard's units read, of ``width``."""
        groups = self.groups(reads)
        first, each = self.index * groups // self.shards, width // groups
        return range(first * each, (first + self.groups_here(reads)) * each)

    def conv(self, name: str, inputs: int, outputs: int, window: Window, reads: Reads) -> nn.Conv2d:
        """This shard's part of a convolution. Input (B, own channels, H, W)."""
        seen, units = len(self.inputs(inputs, reads)), len(self.units(outputs))
        if self.spread(reads) > 1:
            return self.gathering_conv(name, seen, units, window, reads)
        return make_conv(seen, units, window, self.groups_here(reads))

    def first_conv(self, inputs: int, outputs: int, window: Window) -> nn.Conv2d:
        """This shard's part of the convolution that reads the images, which are whole here."""
        return make_conv(inputs, len(self.units(outputs)), window)

    def linear(
        self, name: str, inputs: int, outputs: int, reads: Reads, *, gathered: bool = False
    ) -> nn.Linear:
        """This shard's part of a fully connected layer. Input (B, own units).

        With ``gathered`` the caller has brought all of its inputs here, as for a hybrid's fc6.
        """
        seen, units = len(self.inputs(inputs, reads)), len(self.units(outputs))
        if self.spread(reads) > 1 and not gathered:
            return self.gathering_linear(name, seen, units, reads)
        groups = self.groups_here(reads)
        return nn.Linear(seen, units) if groups == 1 else GroupedLinear(seen, units, groups)

    def last_linear(self, inputs: int, classes: int) -> nn.Linear:
        """The last layer: logits (B, classes) from this shard's own inputs, to be summed."""
        return nn.Linear(inputs, classes)

    def normalizing(self, name: str, module: nn.Module, reads: Reads) -> nn.Module:
        """``module`` (B, C, H, W), which normalises channels within the groups of ``reads``."""
        return module

    def gathering_conv(
        self, name: str, inputs: int, outputs: int, window: Window, reads: Reads
    ) -> nn.Conv2d:
        """A convolution whose ``inputs`` are spread over shards."""
        raise NotImplementedError

    def gathering_linear(self, name: str, inputs: int, outputs: int, reads: Reads) -> nn.Linear:
        """A fully connected layer whose ``inputs`` are spread over shards."""
        raise NotImplementedError


class Placement:
    """Where the layers of a net of ``towers`` live; as it stands, all of them in this process.

    ``features`` builds conv1 to conv5, ``classifier`` fc6 to fc8. A *full tensor* is a parameter as
    one process holds it; every other placement holds slices of the same full tensors.
    """

    def __init__(self, towers: int) -> None:
        self.features = self.classifier = Layers(towers)

    def first_linear(self, inputs: int, outputs: int, reads: Reads) -> nn.Linear:
        """The layer that reads the result of ``to_classifier``: fc6."""
        return self.classifier.linear("fc6", inputs, outputs, reads)

    def to_classifier(self, x: Tensor, shares: Sequence[int] | None = None) -> Tensor:
        """The features that this rank's fc6 reads, from its own images' features (B, own units)."""
        return x

    def logits(self, partial: Tensor, shares: Sequence[int] | None = None) -> Tensor:
        """Own images' logits (B, classes), from fc8 of own inputs for all images here."""
        return partial

    def full_shape(self, name: str, shape: torch.Size) -> torch.Size:
        """The full shape of a parameter that has ``shape`` in this process."""
        return shape

    def shard(self, name: str, full: Tensor) -> Tensor:
        """This process's slice of a full parameter, or of its momentum."""
        return full

    def unshard(self, name: str, part: Tensor) -> Tensor:
        """The full tensor of a parameter from its slices; every rank of a copy must call it."""
        return part
