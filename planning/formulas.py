"""The arithmetic, the parameters and the traffic of a net, computed from its shapes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from distributed.plan import Plan
from model.alexnet import CLASSIFIER, FEATURES
from model.normalization import WINDOW
from model.placement import Layers, Reads
from model.variants import Variant, net_form
from planning.links import ring_bytes

BOUNDARIES = (
    *("norm1", "conv2", "norm2", "conv3", "conv4", "conv5", "fc6", "fc7", "logits"),
    *("conv gradients", "fc gradients"),
)
"""The places where ranks can send to each other, in the net's order: keys of ``bytes_at``."""


class Shape(NamedTuple):
    """A layer: its widths over all towers, and pixels of its window and of the maps around it."""

    inputs: int
    outputs: int
    reads: Reads
    window: int = 1
    pixels_read: int = 1
    pixels_made: int = 1


@dataclass(frozen=True)
class Net:
    """A variant with ``changes`` to its fields, its towers, its input and its output."""

    name: str
    towers: int
    channels: int
    size: int
    classes: int
    changes: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def variant(self) -> Variant:
        """The variant's row, with the changes."""
        return net_form(self.name, self.changes)

    @property
    def norm_reads(self) -> Reads:
        """The channels that local response normalisation reads."""
        return Reads.ALL if self.variant.lrn_spans_towers else Reads.OWN

    def _reads(self, layer: str) -> Reads:
        return Reads.ALL if layer in ("conv1", *self.variant.meet) else Reads.OWN

    def sides(self) -> dict[str, tuple[int, int]]:
        """Sides of the maps that each convolution reads and makes, in pixels."""
        sides, side = {}, self.size
        for number, window in enumerate(self.variant.windows, start=1):
            made = window.out_side(side)
            sides[f"conv{number}"] = side, made
            side = _pooled(made, self.variant.pool) if number <= 2 else made
        return sides

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """The layers with parameters, by name."""
        variant, hidden = self.variant, self.variant.hidden
        shapes, inputs = {}, self.channels
        layers = zip(self.sides().items(), variant.convolutions, variant.windows, strict=True)
        for (name, (read, made)), width, window in layers:
            areas = window.kernel**2, read**2, made**2
            shapes[name] = Shape(inputs, width, self._reads(name), *areas)
            inputs = width
        shapes["fc6"] = Shape(inputs * variant.features**2, hidden, self._reads("fc6"))
        shapes["fc7"] = Shape(hidden, hidden, self._reads("fc7"))
        shapes["fc8"] = Shape(hidden, self.classes, Reads.ALL)
        return shapes

    def macs(self) -> dict[str, int]:
        """Multiply-adds of one image's forward pass by layer, all towers; no normalisation."""
        whole = Layers(self.towers)
        return {
            name: shape.window
            * (shape.inputs // whole.groups(shape.reads))
            * shape.outputs
            * shape.pixels_made
            for name, shape in self.shapes.items()
        }

    def flops(self) -> int:
        """Floating-point operations to train on one image.

        Each multiply-add is two, and happens three times: forward, and for the gradients of the
        inputs and of the weights. The images need no gradient.
        """
        macs = self.macs()
        return 2 * (3 * sum(macs.values()) - macs["conv1"])


def parameters_per_rank(net: Net, plan: Plan) -> dict[str, int]:
    """Weights and biases that a rank holds, by layer."""
    shapes, held = net.shapes, {}
    for names, shards in ((FEATURES, plan.features.shards), (CLASSIFIER, plan.classifier.shards)):
        layers = Layers(net.towers, shards)
        for name in names:
            inputs, outputs, reads, window, *_ = shapes[name]
            seen = window * inputs // layers.groups(reads)
            held[name] = len(layers.units(outputs)) * (seen + 1)
    outputs = shapes["fc8"].outputs  # fc8 alone is sliced along its inputs; its bias is whole
    held["fc8"] = outputs * (shapes["fc8"].inputs // plan.classifier.shards + 1)
    return held


def bytes_sent(
    net: Net, plan: Plan, batch: int, activation_size: int, gradient_size: int
) -> dict[str, int]:
    """Bytes that rank 0 sends in a step on a global ``batch``, by ``BOUNDARIES``.

    The sizes are those of one activation and of one gradient that travels. Gradients are summed
    once a step. Boundaries where nothing is sent are left out.

    In a hybrid of K ranks, with b images on each and C parameters in the convolutions, this is
    ``2 (K - 1)/K · C · gradient_size + 2 (K - 1) · b · (fc6's inputs + hidden + classes) ·
    activation_size``. For the paper's net with 1000 classes the second term, whatever K is, is less
    than averaging the classifier's gradients costs while the global batch K·b is below 4,097
    images with fp32 activations, and below 8,193 with bf16.
    """
    features, classifier = plan.features, plan.classifier
    held = parameters_per_rank(net, plan)
    gradients = {
        "conv gradients": ring_bytes(sum(held[name] for name in FEATURES), features.replicas),
        "fc gradients": ring_bytes(sum(held[name] for name in CLASSIFIER), classifier.replicas),
    }
    activations = _activations_sent(net, plan, batch)
    sent = {name: number * activation_size for name, number in activations.items()}
    sent |= {name: number * gradient_size for name, number in gradients.items()}
    return {name: round(sent[name]) for name in BOUNDARIES if sent.get(name)}


def _activations_sent(net: Net, plan: Plan, batch: int) -> dict[str, float]:
    """Activations and their gradients that rank 0 sends, by boundary."""
    shapes, classifier = net.shapes, Layers(net.towers, plan.classifier.shards)
    features = Layers(net.towers, plan.features.shards)
    images, fed = images_of(plan, batch)
    sent: dict[str, float] = {
        name: _gathered(shapes[name], features, images) for name in FEATURES[1:]
    }
    sent |= _borders(net, features, images)
    sent["fc7"] = _gathered(shapes["fc7"], classifier, fed)
    if plan.feeds == 1:
        sent["fc6"] = _gathered(shapes["fc6"], classifier, images)
        sent["logits"] = ring_bytes(images * net.classes, classifier.shards)
        return sent
    # Rows of own images go to all ranks of the classifier, and those of the others come from it.
    out, back = (classifier.shards - 1) * images, features.shards * fed - images
    sent["fc6"] = (out + back) * shapes["fc6"].inputs // features.shards
    sent["logits"] = (back + (plan.feeds - 1) * images) * net.classes
    return sent


def _gathered(shape: Shape, layers: Layers, images: int) -> int:
    """What a rank sends where a layer gathers its inputs: its part of them, and as much back."""
    own = len(layers.units(shape.inputs)) * shape.pixels_read
    return 2 * (layers.spread(shape.reads) - 1) * images * own


def _borders(net: Net, layers: Layers, images: int) -> dict[str, float]:
    """What rank 0, which has one neighbour, sends of its border channels, and as much back."""
    variant, sides = net.variant, net.sides()
    if not variant.local_response_norm or layers.spread(net.norm_reads) == 1:
        return {}
    made = {f"norm{number}": sides[f"conv{number}"][1] for number in (1, 2)}
    if variant.pools_first:
        made = {name: _pooled(side, variant.pool) for name, side in made.items()}
    return {name: 2 * (WINDOW // 2) * images * side**2 for name, side in made.items()}


def images_of(plan: Plan, batch: int) -> tuple[int, int]:
    """Images of a global batch on rank 0: of its features, and of all that feed its classifier.

    The first replicas have one more where they cannot be even (``Tensor.tensor_split``).
    """
    each, more = divmod(batch, plan.features.replicas)
    return each + (more > 0), plan.feeds * each + min(more, plan.feeds)


def _pooled(side: int, window: int) -> int:
    return (side - min(window, side)) // 2 + 1
