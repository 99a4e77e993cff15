"""The arithmetic and the traffic of a net, computed from its shapes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from model.variants import Variant, net_form


@dataclass(frozen=True)
class Net:
    """A variant with ``changes`` to its fields, its towers, its input and its output."""

    name: str
    towers: int
    channels: int
    size: int
    classes: int
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def variant(self) -> Variant:
        """The variant's row, with the changes."""
        return net_form(self.name, self.changes)

    def _parts(self, layer: str) -> int:
        """Into how many parts, one for each tower, the inputs of ``layer`` are divided."""
        return 1 if layer in ("conv1", *self.variant.meet) else self.towers

    def sides(self) -> dict[str, tuple[int, int]]:
        """Sides of the maps that each convolution reads and makes, in pixels."""
        sides, side = {}, self.size
        for number, window in enumerate(self.variant.windows, start=1):
            made = window.out_side(side)
            sides[f"conv{number}"] = side, made
            side = _pooled(made, self.variant.pool) if number <= 2 else made
        return sides

    def macs(self) -> dict[str, int]:
        """Multiply-adds of one image's forward pass by layer, all towers; no normalisation."""
        variant, hidden = self.variant, self.variant.hidden
        macs, inputs = {}, self.channels
        layers = zip(self.sides().items(), variant.convolutions, variant.windows, strict=True)
        for (layer, (_, side)), width, window in layers:
            macs[layer] = window.kernel**2 * inputs // self._parts(layer) * width * side**2
            inputs = width
        inputs *= variant.features**2
        macs["fc6"] = inputs // self._parts("fc6") * hidden
        macs["fc7"] = hidden // self._parts("fc7") * hidden
        macs["fc8"] = hidden * self.classes
        return macs

    def flops(self) -> int:
        """Floating-point operations to train on one image.

        Each multiply-add is two, and happens three times: forward, and for the gradients of the
        inputs and of the weights. The images need no gradient.
        """
        macs = self.macs()
        return 2 * (3 * sum(macs.values()) - macs["conv1"])

    def activation_bytes(self, images: int, element_size: int) -> float:
        """Bytes that one rank of split towers sends in a step on ``images`` of its replica.

        Where conv3, fc6 and fc7 meet, its own part of their inputs goes to every other tower, and
        as much comes back as gradients. The logits are summed, which sends no gradients.
        """
        n = self.towers
        side, _ = self.sides()["conv3"]
        _, c2, _, _, c5 = self.variant.convolutions
        read = {
            "conv3": c2 * side**2,
            "fc6": c5 * self.variant.features**2,
            "fc7": self.variant.hidden,
        }
        gathered = sum(read[layer] for layer in set(self.variant.meet)) // n
        logits = 2 * (n - 1) / n * self.classes
        return (2 * (n - 1) * gathered + logits) * images * element_size


def gradient_bytes(replicas: int, parameters: int, element_size: int) -> float:
    """Bytes that one rank sends in a step to sum the gradients of its ``parameters``."""
    return 2 * (replicas - 1) / replicas * parameters * element_size


def _pooled(side: int, window: int) -> int:
    return (side - min(window, side)) // 2 + 1
