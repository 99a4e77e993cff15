"""The table of nets. Adding a net is adding a row."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

Meeting = Literal["conv3", "fc6", "fc7"]
MEETINGS: tuple[Meeting, ...] = get_args(Meeting)
"""The layers at which towers can meet."""


class Window(NamedTuple):
    """The window of a convolution, in pixels."""

    kernel: int
    stride: int = 1
    padding: int = 0

    def out_side(self, side: int) -> int:
        """Side of the map that this window makes of one with ``side`` pixels."""
        return (side + 2 * self.padding - self.kernel) // self.stride + 1


_CONV3_TO_5 = (Window(3, 1, 1), Window(3, 1, 1), Window(3, 1, 1))
_CONV2_TO_5 = (Window(5, 1, 2), *_CONV3_TO_5)


@dataclass(frozen=True)
class Variant:
    """One AlexNet: widths over all towers, windows, and the operations between the layers.

    ``convolutions`` are the widths of conv1 to conv5 and ``windows`` their windows; ``hidden`` is
    the width of fc6 and fc7. ``features`` is the side of the map that fc6 reads, ``side`` that of
    the images the net was published with. Every variant also takes images of 64 px.

    ``lrn_k`` is k in section 3.3 of the paper; with ``lrn_spans_towers`` a channel at the border of
    a tower is normalised with its neighbours in the other; with ``pools_first`` the pooling comes
    before the normalisation. ``activation`` is a key of ``model.layers.ACTIVATIONS``, ``init`` one
    of ``model.initialization.SCHEMES``. ``pool`` is the side of the pooling windows, 2 pixels
    apart. ``meet`` names the layers that read every tower; any other reads its own, and the towers'
    logits are added up all the same. ``dropout`` holds the probabilities for the inputs of fc6 and
    for the outputs of fc6 and of fc7.
    """

    convolutions: tuple[int, int, int, int, int]
    windows: tuple[Window, Window, Window, Window, Window] = (Window(11, 4, 2), *_CONV2_TO_5)
    hidden: int = 4096
    features: int = 6
    side: int = 224
    local_response_norm: bool = False
    lrn_k: float = 2.0
    lrn_spans_towers: bool = False
    pools_first: bool = False
    activation: str = "relu"
    pool: int = 3
    meet: tuple[Meeting, ...] = MEETINGS
    dropout: tuple[float, float, float] = (0.0, 0.5, 0.5)
    init: str = "default"
    source: str = ""

    @property
    def widths(self) -> dict[str, int]:
        """Units of the layers that towers and shards divide, over all towers."""
        convolutions = {f"conv{n}": width for n, width in enumerate(self.convolutions, start=1)}
        return {**convolutions, "fc6": self.hidden, "fc7": self.hidden}


VARIANTS = {
    "paper": Variant(
        (96, 256, 384, 384, 256),
        local_response_norm=True,
        init="released",
        source="Krizhevsky, Sutskever, Hinton, NIPS 2012",
    ),
    "half": Variant(
        (48, 128, 192, 192, 256),
        local_response_norm=True,
        init="released",
        source="Krizhevsky, Sutskever, Hinton, NIPS 2012, section 3.2: the one-GPU control",
    ),
    "d2l": Variant(
        (96, 256, 384, 384, 256),
        (Window(11, 4, 1), *_CONV2_TO_5),
        features=5,
        init="xavier",
        source="Dive into Deep Learning, chapter 8.1",
    ),
    "torchvision": Variant(
        (64, 192, 384, 256, 256),
        dropout=(0.5, 0.5, 0.0),
        source="Krizhevsky 2014, as in torchvision.models.alexnet",
    ),
    "caffe": Variant(
        (96, 256, 384, 384, 256),
        (Window(11, 4), *_CONV2_TO_5),
        side=227,
        local_response_norm=True,
        lrn_k=1.0,
        lrn_spans_towers=True,
        init="released",
        source="Caffe's bvlc_alexnet",
    ),
    "caffenet": Variant(
        (96, 256, 384, 384, 256),
        (Window(11, 4), *_CONV2_TO_5),
        side=227,
        local_response_norm=True,
        lrn_k=1.0,
        lrn_spans_towers=True,
        pools_first=True,
        init="released",
        source="Caffe's bvlc_reference_caffenet",
    ),
    "zfnet": Variant(
        (96, 256, 384, 384, 256),
        (Window(7, 2, 1), Window(5, 2, 2), *_CONV3_TO_5),
        local_response_norm=True,
        init="released",
        source="Zeiler, Fergus, Visualizing and Understanding Convolutional Networks, 2013",
    ),
}


def net_form(variant: str, changes: Mapping[str, Any]) -> Variant:
    """The row of ``variant``, with ``changes`` to its fields."""
    return replace(VARIANTS[variant], **changes)
