"""The placements that ``compare.py`` compares. To add one, add a row."""

from dataclasses import dataclass

from common.errors import ReportedError


@dataclass(frozen=True)
class Placement:
    """``replicas`` of a net of ``towers``, with one tower per rank (``split``) or all of them."""

    name: str
    towers: int
    replicas: int
    split: bool

    @property
    def processes(self) -> int:
        """The number of processes of the training."""
        return self.replicas * (self.towers if self.split else 1)

    @property
    def settings(self) -> list[str]:
        """The overrides that select this placement."""
        return [f"towers={self.towers}", f"placement={'split' if self.split else 'local'}"]


def placements(towers: int) -> dict[str, Placement]:
    """The placements by name; all but the single stream have ``towers``."""
    table = [
        Placement("single", 1, 1, split=False),
        Placement("local", towers, 1, split=False),
        Placement("split", towers, 1, split=True),
        Placement("ddp", towers, towers, split=False),
        Placement("split+ddp", towers, 2, split=True),
    ]
    return {placement.name: placement for placement in table}


def chosen(names: list[str], towers: int, devices: int) -> list[Placement]:
    """The placements with these names; without names, all that fit ``devices``.

    Raises ReportedError for an unknown name, and for fewer than two towers.
    """
    if towers < 2:
        raise ReportedError(
            f"towers is {towers}: a comparison splits the net, so set towers to 2 or more"
        )
    table = placements(towers)
    if unknown := [name for name in names if name not in table]:
        raise ReportedError(f"unknown placement {unknown[0]!r}: choose from {', '.join(table)}")
    return [
        placement
        for placement in table.values()
        if (placement.name in names if names else placement.processes <= max(devices, 2))
    ]
