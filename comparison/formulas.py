"""What the shapes of a net say of its work and of its traffic, without running it."""

from dataclasses import dataclass

from model.variants import VARIANTS, Variant


@dataclass(frozen=True)
class Net:
    """A variant with its towers, its input and its output."""

    name: str
    towers: int
    channels: int
    size: int
    classes: int

    @property
    def variant(self) -> Variant:
        """Its row in the table of nets."""
        return VARIANTS[self.name]

    def sides(self) -> tuple[int, int, int]:
        """Sides of the maps that conv1 gives, that conv2 reads, and that conv3 to conv5 read."""
        conv1 = (self.size + 2 * self.variant.conv1_padding - 11) // 4 + 1
        return conv1, _pooled(conv1), _pooled(_pooled(conv1))

    def macs(self) -> dict[str, int]:
        """Multiply-adds of one image's forward pass by layer, all towers; no normalisation."""
        c1, c2, c3, c4, c5 = self.variant.convolutions
        side1, side2, side3 = self.sides()
        inputs, hidden = c5 * self.variant.features**2, self.variant.hidden
        return {
            "conv1": 11**2 * self.channels * c1 * side1**2,
            "conv2": 5**2 * c1 // self.towers * c2 * side2**2,
            "conv3": 3**2 * c2 * c3 * side3**2,
            "conv4": 3**2 * c3 // self.towers * c4 * side3**2,
            "conv5": 3**2 * c4 // self.towers * c5 * side3**2,
            "fc6": inputs * hidden,
            "fc7": hidden * hidden,
            "fc8": hidden * self.classes,
        }

    def flops(self) -> int:
        """Floating-point operations to train on one image.

        Each multiply-add is two, and happens three times: forward, and for the gradients of the
        inputs and of the weights. The images need no gradient.
        """
        macs = self.macs()
        return 2 * (3 * sum(macs.values()) - macs["conv1"])

    def exchanged_bytes(self, images: int, element_size: int) -> float:
        """Bytes that one rank of split towers sends in a step on ``images`` of its replica.

        Its share of pool2, of the map that fc6 reads and of fc6 goes to every other tower, and as
        much comes back as gradients; the summed logits send nothing back.
        """
        n = self.towers
        _, _, side3 = self.sides()
        _, c2, _, _, c5 = self.variant.convolutions
        gathered = (c2 * side3**2 + c5 * self.variant.features**2 + self.variant.hidden) // n
        logits = 2 * (n - 1) / n * self.classes
        return (2 * (n - 1) * gathered + logits) * images * element_size


def averaged_bytes(replicas: int, parameters: int, element_size: int) -> float:
    """Bytes that one rank sends to average the gradients of its ``parameters``."""
    return 2 * (replicas - 1) / replicas * parameters * element_size


def _pooled(side: int) -> int:
    return (side - min(3, side)) // 2 + 1
