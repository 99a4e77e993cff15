"""What the shapes of a net say of its work and of its traffic, without running it."""

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
        """Its row in the table of nets, with the changes."""
        return net_form(self.name, self.changes)

    def _parts(self, layer: str) -> int:
        """How many towers share out the inputs of a layer at which they may meet."""
        return 1 if layer in self.variant.meet else self.towers

    def sides(self) -> tuple[int, int, int]:
        """Sides of the maps that conv1 gives, that conv2 reads, and that conv3 to conv5 read."""
        conv1 = (self.size + 2 * self.variant.conv1_padding - 11) // 4 + 1
        conv2 = _pooled(conv1, self.variant.pool)
        return conv1, conv2, _pooled(conv2, self.variant.pool)

    def macs(self) -> dict[str, int]:
        """Multiply-adds of one image's forward pass by layer, all towers; no normalisation."""
        c1, c2, c3, c4, c5 = self.variant.convolutions
        side1, side2, side3 = self.sides()
        inputs, hidden = c5 * self.variant.features**2, self.variant.hidden
        return {
            "conv1": 11**2 * self.channels * c1 * side1**2,
            "conv2": 5**2 * c1 // self.towers * c2 * side2**2,
            "conv3": 3**2 * c2 // self._parts("conv3") * c3 * side3**2,
            "conv4": 3**2 * c3 // self.towers * c4 * side3**2,
            "conv5": 3**2 * c4 // self.towers * c5 * side3**2,
            "fc6": inputs // self._parts("fc6") * hidden,
            "fc7": hidden // self._parts("fc7") * hidden,
            "fc8": hidden * self.classes,
        }

    def flops(self) -> int:
        """Floating-point operations to train on one image.

        Each multiply-add is two, and happens three times: forward, and for the gradients of the
        inputs and of the weights. The images need no gradient.
        """
        macs = self.macs()
        return 2 * (3 * sum(macs.values()) - macs["conv1"])

    def activation_bytes(self, images: int, element_size: int) -> float:
        """Bytes that one rank of split towers sends in a step on ``images`` of its replica.

        Its share of what conv3 (pool2), fc6 and fc7 read goes to every other tower, where these
        layers meet, and as much comes back as gradients; the summed logits send nothing back.
        """
        n = self.towers
        _, _, side3 = self.sides()
        _, c2, _, _, c5 = self.variant.convolutions
        read = {
            "conv3": c2 * side3**2,
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
