"""The table of nets. Adding a net is adding a row."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Activation = Literal["relu", "tanh", "sigmoid"]
Meeting = Literal["conv3", "fc6", "fc7"]


@dataclass(frozen=True)
class Variant:
    """One AlexNet: widths over all towers, and what stands between the layers.

    ``features`` is the side of the map that fc6 reads. ``lrn_k`` is k in section 3.3 of the
    paper; with ``lrn_spans_towers`` a channel at the border of a tower is normalised with its
    neighbours in the other; with ``pools_first`` the pooling comes before the normalisation.
    ``pool`` is the side of the pooling windows, 2 pixels apart. ``meet`` names the layers that
    read every tower; any other reads its own, and the towers' logits are added up all the same.
    ``dropout`` holds the probabilities for the inputs of fc6 and for the outputs of fc6 and of fc7.
    """

    convolutions: tuple[int, int, int, int, int]
    hidden: int = 4096
    features: int = 6
    conv1_padding: int = 2
    local_response_norm: bool = False
    lrn_k: float = 2.0
    lrn_spans_towers: bool = False
    pools_first: bool = False
    activation: Activation = "relu"
    pool: Literal[2, 3] = 3
    meet: tuple[Meeting, ...] = ("conv3", "fc6", "fc7")
    dropout: tuple[float, float, float] = (0.0, 0.5, 0.5)
    init: Literal["released", "text", "xavier", "he", "default"] = "default"
    source: str = ""


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
        source="the same, section 3.2, footnote: the one-GPU control",
    ),
    "d2l": Variant(
        (96, 256, 384, 384, 256),
        features=5,
        conv1_padding=1,
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
        conv1_padding=0,
        local_response_norm=True,
        lrn_k=1.0,
        lrn_spans_towers=True,
        init="released",
        source="Caffe's bvlc_alexnet, on images of 227 px",
    ),
    "caffenet": Variant(
        (96, 256, 384, 384, 256),
        conv1_padding=0,
        local_response_norm=True,
        lrn_k=1.0,
        lrn_spans_towers=True,
        pools_first=True,
        init="released",
        source="Caffe's bvlc_reference_caffenet, on images of 227 px",
    ),
}


def net_form(variant: str, changes: Mapping[str, Any]) -> Variant:
    """The row of a variant, with changes to its fields."""
    return replace(VARIANTS[variant], **changes)
