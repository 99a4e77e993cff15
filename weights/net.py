"""A net's weights as full tensors, checked against the variants of the net."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from common.errors import ReportedError
from model.alexnet import AlexNet
from model.initialization import fill
from model.placement import Placement
from model.variants import VARIANTS, net_form
from weights.names import NAMES, find_names

MOST_BYTES = 2**31
"""Limit for a file of weights and for its unpacked content. 60 million parameters in double
precision take a quarter of it; a small file can claim any size."""


@dataclass(frozen=True)
class Weights:
    """The full tensors that ``source`` holds, and a description of their net.

    ``variant`` is None where the source does not name it and several variants have these shapes.
    ``changes`` replace fields of the variant. ``class_names`` has a name for each class, and
    ``preprocessing`` the data settings that turn an image into the net's input; both are None where
    they are not known.
    """

    source: Path
    tensors: dict[str, Tensor]
    variant: str | None
    class_names: Sequence[str] | None = None
    preprocessing: dict[str, Any] | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def towers(self) -> int:
        """Number of towers: conv2 reads the outputs of one tower of conv1."""
        return self.tensors["conv1.weight"].shape[0] // self.tensors["conv2.weight"].shape[1]

    @property
    def classes(self) -> int:
        """Number of classes, the outputs of fc8."""
        return self.tensors["fc8.weight"].shape[0]

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return self.tensors["conv1.weight"].shape[1]

    @property
    def known_variant(self) -> str:
        """The variant; raises ReportedError where it is not known."""
        if self.variant is None:
            raise ReportedError(
                f"{self.source} does not name its variant: set variant to one of "
                f"{', '.join(_fitting(self.tensors, self.changes))}"
            )
        return self.variant

    def of_variant(self, variant: str, changes: Mapping[str, Any] | None = None) -> "Weights":
        """Take the tensors for a net of ``variant`` with ``changes`` (by default, its own).

        Raises ReportedError when they are of another net.
        """
        changes = self.changes if changes is None else changes
        if self.variant not in (variant, None):
            raise ReportedError(
                f"{self.source} holds a net of the variant {self.variant}, not {variant}: "
                f"name {self.variant}"
            )
        _, words = _difference(self.tensors, variant, changes)
        if words:
            raise ReportedError(
                f"{self.source} does not hold a net of the variant {variant}: {words}"
            )
        return replace(self, variant=variant, changes=changes)

    def model(self) -> AlexNet:
        """Build the net with all towers in this process; raises ReportedError without a variant."""
        with torch.device("meta"):
            model = _empty_model(self.tensors, self.known_variant, self.changes)
        model = model.to_empty(device="cpu")
        fill(model, self.tensors)
        return model.eval()


def make_weights(
    source: Path,
    tensors: dict[str, Tensor],
    variant: str | None = None,
    class_names: Sequence[str] | None = None,
    preprocessing: dict[str, Any] | None = None,
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> Weights:
    """Check the tensors and their description; raises ReportedError unless they are an AlexNet's.

    They become plain and contiguous, on the CPU, each with a memory of its own, and half-precision
    ones float32. A ``variant`` that is not given is recognised if it alone has these shapes.
    """
    places = find_names(source, tensors).places
    tensors = {name: tensors[places[name]] for name in NAMES}
    for name, tensor in tensors.items():
        if form := _unusual_form(tensor):
            raise ReportedError(
                f"the {name} of {source} is {form}, not an array of floating-point numbers: write "
                "the file again with such"
            )
    fitting = _fitting(tensors, changes)
    if not fitting:
        known = [variant] if variant in VARIANTS else VARIANTS
        _, words = max(_difference(tensors, each, changes) for each in known)
        raise ReportedError(f"{source} does not hold an AlexNet of model/variants.py: {words}")
    wide = {name: _plain(tensor) for name, tensor in tensors.items()}
    for name, tensor in wide.items():
        if not tensor.float().isfinite().all():
            raise ReportedError(
                f"the {name} of {source} holds numbers that are NaN or infinite: name weights that "
                "were saved before"
            )
    weights = Weights(source, wide, fitting[0] if len(fitting) == 1 else None, changes=changes)
    if variant is not None:
        _check_known(source, variant)
        weights = weights.of_variant(variant, changes)
    if class_names is not None and len(class_names) != weights.classes:
        raise ReportedError(
            f"{source} names {len(class_names)} classes, and its net has {weights.classes}: "
            "name all of them or none"
        )
    return replace(weights, class_names=class_names, preprocessing=preprocessing)


def _unusual_form(tensor: Tensor) -> str:
    """What a tensor is that does not hold a floating-point number for each place; or nothing."""
    if tensor.layout is not torch.strided:
        return f"a sparse tensor ({tensor.layout})"
    if not tensor.is_floating_point():
        return f"a tensor of {tensor.dtype}"
    if tensor.is_meta:
        return "a meta tensor"
    if tensor.untyped_storage().nbytes() < tensor.nbytes:
        return "an expanded tensor"
    return ""


def _plain(tensor: Tensor) -> Tensor:
    """A copy on the CPU, contiguous and without gradient; half precision becomes float32."""
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    return torch.empty(tensor.shape, dtype=dtype).copy_(tensor.detach())


def _check_known(source: Path, variant: str) -> None:
    if variant not in VARIANTS:
        known = ", ".join(VARIANTS)
        raise ReportedError(
            f"{source} names the variant {variant}, which is not one of {known}: write it again "
            "with one of these"
        )


def _fitting(tensors: dict[str, Tensor], changes: Mapping[str, Any]) -> list[str]:
    """List the variants with these shapes; towers, classes and channels follow from the shapes."""
    return [variant for variant in VARIANTS if not _difference(tensors, variant, changes)[1]]


def _difference(
    tensors: dict[str, Tensor], variant: str, changes: Mapping[str, Any]
) -> tuple[int, str]:
    """Compare the shapes with those of ``variant``, in order.

    Returns the number of equal shapes before the first difference, and that difference in words;
    the words are empty if all shapes agree.
    """
    try:
        with torch.device("meta"):
            expected = _empty_model(tensors, variant, changes).state_dict()
    except (LookupError, ZeroDivisionError, TypeError, ValueError, RuntimeError):
        return 0, "no net has the shapes of its tensors"
    for position, name in enumerate(NAMES):
        found, right = tuple(tensors[name].shape), tuple(expected[name].shape)
        if found != right:
            return position, f"its {name} has the shape {found}, and {variant} has {right}"
    return len(NAMES), ""


def _empty_model(tensors: dict[str, Tensor], variant: str, changes: Mapping[str, Any]) -> AlexNet:
    weights = Weights(Path(), tensors, variant)
    if not (weights.towers and weights.classes and weights.channels):
        raise ValueError("a dimension is 0")
    towers = Placement(weights.towers)
    return AlexNet(net_form(variant, changes), weights.classes, weights.channels, towers)
