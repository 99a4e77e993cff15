"""The interface that builds the layers of towers, and its one-process form.

A tower is one of the parallel streams of the network. Most layers read their own tower only; at a
few layers the towers *meet*. ``AlexNet`` is written once against ``Towers``. Its other form,
``distributed.split.SplitTowers``, has one tower on each rank.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from typing_extensions import override

from common.errors import ReportedError
from model.layers import GroupedLinear, make_conv
from model.variants import Window


class Towers(ABC):
    """Build the layers of ``count`` towers, and join the towers where they meet.

    A full tensor is a parameter with all towers in one process. Every other placement holds slices
    of the same full tensors.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def check_width(self, name: str, width: int) -> None:
        """Raise ReportedError unless the towers divide a layer's width."""
        if width % self.count:
            raise ReportedError(
                f"{self.count} towers do not divide the {width} outputs of {name}: "
                "choose a number of towers that divides every layer's width"
            )

    def shard_dim(self, name: str) -> int | None:
        """The dimension along which a parameter is sliced over towers; None: whole on each."""
        return {"fc8.weight": 1, "fc8.bias": None}.get(name, 0)

    @abstractmethod
    def conv(self, inputs: int, outputs: int, window: Window, *, meets: bool = False) -> nn.Conv2d:
        """A convolution. Widths are of all towers; with ``meets`` each reads all ``inputs``."""

    @abstractmethod
    def linear(self, inputs: int, outputs: int, *, meets: bool = False) -> nn.Linear:
        """A fully connected layer; widths and ``meets`` as for a convolution."""

    @abstractmethod
    def classifier(self, inputs: int, classes: int) -> nn.Linear:
        """The last layer: each tower computes logits from its own inputs, and ``sum`` adds them."""

    @abstractmethod
    def meet(self, layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
        """The output of a layer that reads every tower, from this process's ``x`` (B, C, …)."""

    @abstractmethod
    def sum(self, logits: Tensor) -> Tensor:
        """The sum of the towers' logits (B, classes), equal in every process."""

    @property
    @abstractmethod
    def here(self) -> range:
        """The towers that this process computes."""

    @abstractmethod
    def full_shape(self, name: str, shape: torch.Size) -> torch.Size:
        """The full shape of a parameter that has ``shape`` in this process."""

    @abstractmethod
    def shard(self, name: str, full: Tensor) -> Tensor:
        """This process's slice of a full parameter, or of its momentum."""

    @abstractmethod
    def unshard(self, name: str, part: Tensor) -> Tensor:
        """The full tensor of a parameter from its slices; every rank must call it."""

    def units(self, width: int) -> range:
        """The units that this process computes, of the full layer's ``width``."""
        each = width // self.count
        return range(self.here.start * each, self.here.stop * each)


class LocalTowers(Towers):
    """All towers in one process: full-width layers, grouped where a layer reads its own tower."""

    @override
    def conv(self, inputs: int, outputs: int, window: Window, *, meets: bool = False) -> nn.Conv2d:
        return make_conv(inputs, outputs, window, groups=1 if meets else self.count)

    @override
    def linear(self, inputs: int, outputs: int, *, meets: bool = False) -> nn.Linear:
        if meets or self.count == 1:
            return nn.Linear(inputs, outputs)
        return GroupedLinear(inputs, outputs, self.count)

    @override
    def classifier(self, inputs: int, classes: int) -> nn.Linear:
        return nn.Linear(inputs, classes)

    @override
    def meet(self, layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
        out: Tensor = layer(x)
        return out

    @override
    def sum(self, logits: Tensor) -> Tensor:
        return logits

    @property
    @override
    def here(self) -> range:
        return range(self.count)

    @override
    def full_shape(self, name: str, shape: torch.Size) -> torch.Size:
        return shape

    @override
    def shard(self, name: str, full: Tensor) -> Tensor:
        return full

    @override
    def unshard(self, name: str, part: Tensor) -> Tensor:
        return part
