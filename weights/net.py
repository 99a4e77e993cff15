"""A net's weights in the local layout, and what is known of the net they make."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from common.errors import ReportedError
from model.alexnet import AlexNet
from model.initialization import fill
from model.towers import LocalTowers
from model.variants import VARIANTS, net_form

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
NAMES = tuple(f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias"))


@dataclass(frozen=True)
class Weights:
    """What ``source`` holds; ``tensors`` are those of the local form, whatever file they are from.

    ``variant`` is None where the file does not say and several have these shapes; ``changes`` are
    those of its row's fields. ``class_names``
    has one for each class, and ``preprocessing`` the settings of a configuration's data section
    that make an image the net's input; they are None where nobody knows.
    """

    source: Path
    tensors: dict[str, Tensor]
    variant: str | None
    class_names: Sequence[str] | None = None
    preprocessing: dict[str, Any] | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def towers(self) -> int:
        """Of which conv2 reads one."""
        return self.tensors["conv1.weight"].shape[0] // self.tensors["conv2.weight"].shape[1]

    @property
    def classes(self) -> int:
        """Outputs of fc8."""
        return self.tensors["fc8.weight"].shape[0]

    @property
    def channels(self) -> int:
        """Of the images."""
        return self.tensors["conv1.weight"].shape[1]

    @property
    def known_variant(self) -> str:
        """The variant; raises ReportedError where it is not known."""
        if self.variant is None:
            raise ReportedError(
                f"{self.source} does not say which net it holds: name its variant, one of "
                f"{', '.join(_fitting(self.tensors, self.changes))}"
            )
        return self.variant

    def of_variant(self, variant: str, changes: Mapping[str, Any] | None = None) -> "Weights":
        """The same as a net of ``variant``, with these changes or its own.

        Raises ReportedError when it is another net.
        """
        changes = self.changes if changes is None else changes
        if self.variant not in (variant, None):
            raise ReportedError(
                f"{self.source} holds a net of the variant {self.variant}, not {variant}: "
                f"name {self.variant}"
            )
        _, words = _difference(self.tensors, variant, changes)
        if words:
            raise ReportedError(f"{self.source} holds no net of the variant {variant}: {words}")
        return replace(self, variant=variant, changes=changes)

    def model(self) -> AlexNet:
        """The net, all towers in this process; raises ReportedError without a variant."""
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
    """What ``source`` holds, checked: raises ReportedError unless the tensors are an AlexNet's.

    Half-precision tensors become float32. Without a ``variant`` it is that which alone has these
    shapes, if there is such a one.
    """
    check_names(source, tensors)
    for name, tensor in tensors.items():
        if not _is_plain(tensor):
            raise ReportedError(f"{source} holds no weights: its {name} is not of plain numbers")
    fitting = _fitting(tensors, changes)
    if not fitting:
        known = [variant] if variant in VARIANTS else VARIANTS
        _, words = max(_difference(tensors, each, changes) for each in known)
        raise ReportedError(f"{source} holds no AlexNet that model/variants.py lists: {words}")
    wide = {name: tensors[name].to(_at_least_float32(tensors[name])) for name in NAMES}
    weights = Weights(source, wide, fitting[0] if len(fitting) == 1 else None)
    if variant is not None:
        _check_known(source, variant)
        weights = weights.of_variant(variant, changes)
    if class_names is not None and len(class_names) != weights.classes:
        raise ReportedError(
            f"{source} names {len(class_names)} classes, and its net has {weights.classes}: "
            "leave the names out, or name all"
        )
    return replace(weights, class_names=class_names, preprocessing=preprocessing)


def check_names(source: Path, names: Iterable[str]) -> None:
    """Raise ReportedError unless the names of tensors are those of the local form."""
    if differing := sorted(set(NAMES).symmetric_difference(names)):
        has = "has no" if differing[0] in NAMES else "also has"
        raise ReportedError(f"{source} holds no AlexNet: it {has} {differing[0]}")


def _is_plain(tensor: Tensor) -> bool:
    """Whether all of its numbers are there; a view can repeat one number without end."""
    if not tensor.is_floating_point() or tensor.layout is not torch.strided:
        return False
    return tensor.device.type == "cpu" and tensor.untyped_storage().nbytes() >= tensor.nbytes


def _check_known(source: Path, variant: str) -> None:
    if variant not in VARIANTS:
        known = ", ".join(VARIANTS)
        raise ReportedError(f"{source} names the variant {variant}: the variants are {known}")


def _at_least_float32(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _fitting(tensors: dict[str, Tensor], changes: Mapping[str, Any]) -> list[str]:
    """The variants that have these shapes, with some number of towers, classes and channels."""
    return [variant for variant in VARIANTS if not _difference(tensors, variant, changes)[1]]


def _difference(
    tensors: dict[str, Tensor], variant: str, changes: Mapping[str, Any]
) -> tuple[int, str]:
    """(how many shapes agree with those of ``variant``, how the next differs: empty if none)."""
    try:
        with torch.device("meta"):
            expected = _empty_model(tensors, variant, changes).state_dict()
    except (LookupError, ZeroDivisionError, TypeError, ValueError, RuntimeError):
        return 0, "the shapes of its tensors make no net"
    for position, name in enumerate(NAMES):
        found, right = tuple(tensors[name].shape), tuple(expected[name].shape)
        if found != right:
            return position, f"its {name} has the shape {found}, and that of {variant} has {right}"
    return len(NAMES), ""


def _empty_model(tensors: dict[str, Tensor], variant: str, changes: Mapping[str, Any]) -> AlexNet:
    weights = Weights(Path(), tensors, variant)
    if not (weights.towers and weights.classes and weights.channels):
        raise ValueError("there is nothing to compute")
    towers = LocalTowers(weights.towers)
    return AlexNet(net_form(variant, changes), weights.classes, weights.channels, towers)
