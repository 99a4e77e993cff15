"""The names of an AlexNet's parameters: ours and torchvision's, alone or below a prefix."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from common.errors import ReportedError
from model.alexnet import CLASSIFIER, FEATURES

LAYERS = (*FEATURES, *CLASSIFIER)
TORCHVISION = dict(
    zip(
        LAYERS,
        [
            *(f"features.{number}" for number in (0, 3, 6, 8, 10)),
            *(f"classifier.{number}" for number in (1, 4, 6)),
        ],
        strict=True,
    )
)
"""Our name of each layer, and torchvision's."""
NAMES = tuple(f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias"))


def in_torchvision(name: str) -> str:
    """The name in torchvision of a parameter."""
    layer, _, kind = name.partition(".")
    return f"{TORCHVISION[layer]}.{kind}"


class Naming(NamedTuple):
    """Where a file has each parameter: by our name, its name there."""

    places: dict[str, str]
    are_torchvisions: bool


def find_names(source: Path, names: Iterable[str]) -> Naming:
    """Find the parameters of one AlexNet among ``names``, below a prefix such as ``module.``.

    Raises ReportedError unless just one prefix has them, all of them and no other.
    """
    names = set(names)
    found = {
        (prefix, are_theirs): places
        for are_theirs, places in ((False, {n: n for n in NAMES}), (True, _THEIRS))
        for prefix in _prefixes(names, places["conv1.weight"])
    }
    if not found:
        raise ReportedError(
            f"{source} does not hold an AlexNet: it has no conv1.weight, nor torchvision's "
            f"features.0.weight{_listed(names)}"
        )
    if len(found) > 1:
        prefixes = " and ".join(sorted(repr(prefix) for prefix, _ in found))
        raise ReportedError(
            f"{source} holds several nets, below {prefixes}: save one of them alone"
        )
    [((prefix, are_theirs), places)] = found.items()
    places = {name: prefix + place for name, place in places.items()}
    of_the_net = {name for name in names if name.startswith(prefix)}
    if differing := sorted(of_the_net.symmetric_difference(places.values())):
        has = "also has" if differing[0] in names else "has no"
        raise ReportedError(f"{source} does not hold an AlexNet: it {has} {differing[0]}")
    return Naming(places, are_theirs)


_THEIRS = {name: in_torchvision(name) for name in NAMES}


def _prefixes(names: set[str], first: str) -> list[str]:
    """What stands before ``first``, the name of a net's first parameter, among ``names``."""
    whole = [name for name in names if name == first or name.endswith(f".{first}")]
    return sorted(name.removesuffix(first) for name in whole)


def _listed(names: Iterable[str]) -> str:
    some = sorted(names)[:3]
    return f" (its first names: {', '.join(some)})" if some else ""
