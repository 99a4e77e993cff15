"""Where the towers of a network live: the interface, and its one-process form.

A tower is one of the parallel streams of the network. Most layers read their own tower only; at a
few places the towers *meet*. ``AlexNet`` is written once against this interface;
``distributed.towers.SplitTowers`` is its other form, one tower per rank.
"""

import torch
from torch import Tensor, nn

from model.errors import InputError


class LocalTowers:
    """All towers in one process: full-width layers, grouped where a layer reads its own tower.

    Its tensors are the truth: any other placement holds slices of the very same ones.
    """

    def __init__(self, count: int = 1) -> None:
        self.count = count

    def check_width(self, name: str, width: int) -> None:
        """Raise InputError unless the towers divide a layer's width."""
        if width % self.count:
            raise InputError(
                f"{self.count} towers do not divide the {width} outputs of {name}: "
                "choose a number of towers that divides every layer's width"
            )

    def conv(self, inputs: int, outputs: int, meets: bool = False, **shape: int) -> nn.Conv2d:
        """A convolution; ``meets`` says that every tower reads all ``inputs`` channels."""
        return nn.Conv2d(inputs, outputs, groups=1 if meets else self.count, **shape)

    def linear(self, inputs: int, outputs: int) -> nn.Linear:
        """A fully connected layer that reads all towers."""
        return nn.Linear(inputs, outputs)

    def classifier(self, inputs: int, classes: int) -> nn.Linear:
        """The last layer: each tower reads its own inputs, and ``sum`` adds what they give."""
        return nn.Linear(inputs, classes)

    def meet(self, x: Tensor) -> Tensor:
        """All towers' channels, (B, C, …), for a layer that reads every tower."""
        return x

    def sum(self, logits: Tensor) -> Tensor:
        """The towers' partial logits (B, classes) added up, equal on every tower."""
        return logits

    def units(self, width: int) -> range:
        """Which of a full layer's ``width`` units are computed here."""
        return range(width)

    @property
    def towers_here(self) -> int:
        """How many towers this process computes."""
        return self.count

    def shard_dim(self, name: str) -> int | None:
        """The dimension along which other placements slice a parameter; None: replicated."""
        return {"fc8.weight": 1, "fc8.bias": None}.get(name, 0)

    def full_shape(self, name: str, shape: torch.Size) -> torch.Size:
        """The local form's shape of the parameter that has ``shape`` here."""
        return shape

    def shard(self, name: str, full: Tensor) -> Tensor:
        """This process's slice of a parameter (or its momentum) in the local form."""
        return full

    def unshard(self, name: str, part: Tensor) -> Tensor:
        """The local form of a parameter from its slices; every tower must call it."""
        return part
