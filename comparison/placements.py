"""The placements that are compared. Adding one is adding a row."""

from dataclasses import dataclass

from common.errors import ReportedError


@dataclass(frozen=True)
class Placement:
    """Where a net of ``towers`` lives: ``replicas`` of it, split over ranks or not."""

    name: str
    towers: int
    replicas: int
    split: bool

    @property
    def processes(self) -> int:
        """How many the training is started in."""
        return self.replicas * (self.towers if self.split else 1)

    @property
    def settings(self) -> list[str]:
        """What makes a training use this placement."""
        return [f"towers={self.towers}", f"placement={'split' if self.split else 'local'}"]


def placements(towers: int) -> dict[str, Placement]:
    """All of them, for a net that has ``towers`` where it is not the single stream."""
    table = [
        Placement("single", 1, 1, split=False),
        Placement("local", towers, 1, split=False),
        Placement("split", towers, 1, split=True),
        Placement("ddp", towers, towers, split=False),
        Placement("split+ddp", towers, 2, split=True),
    ]
    return {placement.name: placement for placement in table}


def chosen(names: list[str], towers: int, devices: int) -> list[Placement]:
    """Those of the names; without names, those that ``devices`` are enough for.

    Raises ReportedError for a name that there is not, and for towers that there are not.
    """
    if towers < 2:
        raise ReportedError(
            f"a comparison splits the net, which needs 2 towers or more, not {towers}"
        )
    table = placements(towers)
    if unknown := [name for name in names if name not in table]:
        raise ReportedError(
            f"there is no placement {unknown[0]!r}: name some of {', '.join(table)}"
        )
    return [
        placement
        for placement in table.values()
        if (placement.name in names if names else placement.processes <= max(devices, 2))
    ]
