"""Plans: on which ranks each stage of the net lives. Arithmetic; nothing here communicates.

The stages are ``features`` (conv1 to conv5) and ``classifier`` (fc6 to fc8). To add a placement,
add a row to ``PLACEMENTS``.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from common.errors import ReportedError
from model.normalization import WINDOW
from model.placement import Layers, Reads
from model.variants import Variant


class Grid(NamedTuple):
    """How the ranks of a stage factor: ``shards`` hold one copy of it, and there are ``replicas``.

    The ranks of a copy are neighbours.
    """

    shards: int
    replicas: int

    def place(self, rank: int) -> tuple[int, int]:
        """The replica and the shard of a rank."""
        return divmod(rank, self.shards)

    def copies(self) -> list[list[int]]:
        """The ranks of each copy, in the order of their shards."""
        return [
            list(range(first, first + self.shards))
            for first in range(0, self.shards * self.replicas, self.shards)
        ]

    def parts(self, number: int) -> list[list[int]]:
        """The ranks of each copy, divided into parts of ``number`` neighbours."""
        return Grid(number, self.shards * self.replicas // number).copies()


@dataclass(frozen=True)
class Plan:
    """The grids of both stages, for a net of ``towers``.

    ``feeds`` replicas of the features give their images to each copy of the classifier.
    """

    towers: int
    features: Grid
    classifier: Grid

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return self.features.shards * self.features.replicas

    @property
    def feeds(self) -> int:
        """Replicas of the features for each copy of the classifier; above 1 it is a hybrid."""
        return self.classifier.shards // self.features.shards

    @property
    def placement(self) -> str:
        """The name of the placement: a key of ``PLACEMENTS``."""
        if self.feeds > 1:
            return "hybrid" if self.features.shards == 1 else "split+hybrid"
        if self.features.shards > 1:
            return "split"
        return "ddp" if self.world_size > 1 else "local"

    def shards_of_tower(self, grid: Grid) -> int:
        """The shards of a stage that share a tower; 1 where each holds whole towers."""
        return max(1, grid.shards // self.towers)

    def check(self, variant: Variant) -> None:
        """Raise ReportedError if the shards do not divide what they must, in a net's layers."""
        convolutions = [name for name in variant.widths if name.startswith("conv")]
        self._check_stage(variant, self.features.shards, convolutions)
        self._check_stage(variant, self.classifier.shards, ["fc6", "fc7"])
        narrow = min(variant.convolutions[:2]) // self.features.shards
        reads = Reads.ALL if variant.lrn_spans_towers else Reads.OWN
        spread = Layers(self.towers, self.features.shards).spread(reads)
        if variant.local_response_norm and spread > 1 and narrow < WINDOW // 2:
            raise ReportedError(
                f"{self.features.shards} shards of the convolutions leave {narrow} channels on a "
                f"rank, and normalisation reads {WINDOW // 2} of each neighbour: use fewer shards"
            )

    def _check_stage(self, variant: Variant, shards: int, layers: Iterable[str]) -> None:
        for layer in layers:
            width = variant.widths[layer]
            if width % shards:
                raise ReportedError(
                    f"placement {self.placement} divides {layer} over {shards} ranks, and {shards} "
                    f"does not divide its {width} units: use a number of ranks that does, or "
                    "change " + ("net.hidden" if layer.startswith("fc") else "shards")
                )
            reads_own = layer not in (*variant.meet, "conv1")
            if reads_own and self.towers % shards and shards % self.towers:
                raise ReportedError(
                    f"placement {self.placement} divides {layer} over {shards} ranks, and each of "
                    f"its {self.towers} towers reads itself alone: {shards} must be a multiple or "
                    f"a divisor of {self.towers}"
                )


def plan_alone(towers: int) -> Plan:
    """The plan of one process."""
    return Plan(towers, Grid(1, 1), Grid(1, 1))


class Wish(NamedTuple):
    """What a configuration asks of a plan; None is a placement's own choice."""

    ranks: int
    towers: int
    shards: int | None = None
    classifier_ranks: int | None = None

    @property
    def splits_by_tower(self) -> bool:
        """True if every rank can hold a tower of its own."""
        return self.towers > 1 and self.ranks % self.towers == 0

    @property
    def own_shards(self) -> int:
        """Ranks over which the net is split: those asked for, one for each tower, or all."""
        return self.shards or (self.towers if self.splits_by_tower else self.ranks)

    @property
    def own_classifier_ranks(self) -> int:
        """Ranks that hold one classifier in a hybrid: those asked for, or all."""
        return self.classifier_ranks or self.ranks


def _auto(wish: Wish) -> tuple[int, int]:
    return (wish.towers, wish.towers) if wish.splits_by_tower else (1, 1)


PLACEMENTS: dict[str, Callable[[Wish], tuple[int, int]]] = {
    "auto": _auto,
    "local": lambda wish: (1, 1),
    "ddp": lambda wish: (1, 1),
    "split": lambda wish: (wish.own_shards, wish.own_shards),
    "hybrid": lambda wish: (1, wish.own_classifier_ranks),
    "split+hybrid": lambda wish: (wish.own_shards, wish.own_classifier_ranks),
}
"""(shards of the features, shards of the classifier) by name."""


def plan_mesh(wish: Wish, placement: str, variant: Variant) -> Plan:
    """Plan a placement for a net on the ranks.

    Raises ReportedError when the numbers do not allow it.
    """
    shards, classifier_shards = PLACEMENTS[placement](wish)
    in_features = f"groups of {shards} that share the convolutions"
    in_classifier = f"groups of {classifier_shards} that share a classifier"
    for number, divisor, what in (
        (wish.ranks, shards, f"{wish.ranks} ranks into {in_features}"),
        (wish.ranks, classifier_shards, f"{wish.ranks} ranks into {in_classifier}"),
        (classifier_shards, shards, f"{in_classifier} into {in_features}"),
    ):
        if number % divisor:
            raise ReportedError(
                f"placement {placement} cannot divide {what}: change the number of ranks, shards "
                "or classifier_ranks"
            )
    if placement in ("split", "hybrid", "split+hybrid") and classifier_shards == 1:
        raise ReportedError(
            f"placement {placement} divides fc6 to fc8 over at least 2 ranks, and here over 1 of "
            f"{wish.ranks}: start more ranks, raise shards or classifier_ranks, or use "
            "placement=ddp"
        )
    plan = Plan(
        wish.towers,
        Grid(shards, wish.ranks // shards),
        Grid(classifier_shards, wish.ranks // classifier_shards),
    )
    plan.check(variant)
    return plan
