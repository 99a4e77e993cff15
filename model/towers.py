"""Where the towers of a network live: the interface, and its one-process form.

A tower is one of the parallel streams of the network. Most layers read their own tower only; at a
few places the towers *meet*. ``AlexNet`` is written once against ``Towers``, whose other form,
one tower per rank, is ``distributed.split.SplitTowers``.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from common.errors import ReportedError
from model.layers import GroupedLinear, SpaceToDepthConv2d


class ConvShape(NamedTuple):
    """The window of a convolution, in pixels."""

    kernel_size: int
    stride: int
    padding: int

    def layer(self, inputs: int, outputs: int, groups: int = 1) -> nn.Conv2d:
        """A convolution with this window."""
        if self.stride > 1 and groups == 1:
            return SpaceToDepthConv2d(inputs, outputs, *self)
        return nn.Conv2d(inputs, outputs, *self, groups=groups)


class Towers(ABC):
    """``count`` towers: builds their layers, and answers where they meet.

    The tensors of the local form, all towers in one process, are the truth: another placement
    holds slices of the very same ones.
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
        """The dimension along which a parameter is sliced over towers; None: replicated."""
        return {"fc8.weight": 1, "fc8.bias": None}.get(name, 0)

    @abstractmethod
    def conv(
        self, inputs: int, outputs: int, shape: ConvShape, *, meets: bool = False
    ) -> nn.Conv2d:
        """A convolution of the full widths; with ``meets`` every tower reads all ``inputs``."""

    @abstractmethod
    def linear(self, inputs: int, outputs: int, *, meets: bool = False) -> nn.Linear:
        """A fully connected layer of the full widths; ``meets`` as for a convolution."""

    @abstractmethod
    def classifier(self, inputs: int, classes: int) -> nn.Linear:
        """The last layer: each tower reads its own inputs, and ``sum`` adds what they give."""

    @abstractmethod
    def meet(self, layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
        """The output of a layer that reads every tower, of the channels (B, C, …) held here."""

    @abstractmethod
    def sum(self, logits: Tensor) -> Tensor:
        """The towers' partial logits (B, classes) added up, equal on every tower."""

    @property
    @abstractmethod
    def here(self) -> range:
        """The towers that this process computes."""

    @abstractmethod
    def full_shape(self, name: str, shape: torch.Size) -> torch.Size:
        """The local form's shape of the parameter that has ``shape`` here."""

    @abstractmethod
    def shard(self, name: str, full: Tensor) -> Tensor:
        """This process's slice of a parameter (or its momentum) in the local form."""

    @abstractmethod
    def unshard(self, name: str, part: Tensor) -> Tensor:
        """The local form of a parameter from its slices; every tower must call it."""

    def units(self, width: int) -> range:
        """Which of a full layer's ``width`` units are computed here."""
        each = width // self.count
        return range(self.here.start * each, self.here.stop * each)


class LocalTowers(Towers):
    """All towers in one process: full-width layers, grouped where a layer reads its own tower."""

    @override
    def conv(
        self, inputs: int, outputs: int, shape: ConvShape, *, meets: bool = False
    ) -> nn.Conv2d:
        return shape.layer(inputs, outputs, groups=1 if meets else self.count)

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
