"""The placements that ``compare.py`` compares. To add one, add a row."""

from dataclasses import dataclass

from common.errors import ReportedError


@dataclass(frozen=True)
class Placement:
    """A way to train on ``ranks`` processes, which ``overrides`` select; some only on request."""

    name: str
    ranks: int
    overrides: tuple[str, ...]
    on_request: bool = False


def placements(towers: int) -> dict[str, Placement]:
    """The placements by name, of a net of ``towers``, and of the single stream on as many ranks."""
    pair = 2 * towers
    table = [
        Placement("single", 1, _settings(1, "local")),
        Placement("local", 1, _settings(towers, "local")),
        Placement("split", towers, _settings(towers, "split", towers)),
        Placement("ddp", towers, _settings(towers, "ddp")),
        Placement("hybrid", towers, _settings(towers, "hybrid", group=towers)),
        Placement("split+ddp", pair, _settings(towers, "split", towers)),
        Placement("hybrid+ddp", pair, _settings(towers, "hybrid", group=towers)),
        Placement("split+hybrid", pair, _settings(towers, "split+hybrid", towers, pair)),
        Placement("dense-split", towers, _settings(1, "split", towers), on_request=True),
        Placement("dense-ddp", towers, _settings(1, "ddp"), on_request=True),
        Placement("dense-hybrid", towers, _settings(1, "hybrid", group=towers), on_request=True),
    ]
    return {placement.name: placement for placement in table}


def _settings(
    towers: int, placement: str, shards: int | None = None, group: int | None = None
) -> tuple[str, ...]:
    """Overrides of all that a configuration could say about where the net lives."""
    values = {"towers": towers, "placement": placement, "shards": shards, "classifier_ranks": group}
    return tuple(f"{key}={'null' if v is None else v}" for key, v in values.items())


def chosen(names: list[str], towers: int, gpus: int) -> list[Placement]:
    """The placements with these names; without names, those for so many GPUs.

    Without any GPU, these are the placements with at most a CPU process for each tower.

    Raises ReportedError for an unknown name, and for fewer than two towers.
    """
    if towers < 2:
        raise ReportedError(
            f"towers is {towers}: a comparison splits the net, so set towers to 2 or more, and "
            "name dense-split, dense-ddp and dense-hybrid to compare the single stream"
        )
    table = placements(towers)
    if unknown := [name for name in names if name not in table]:
        raise ReportedError(f"unknown placement {unknown[0]!r}: choose from {', '.join(table)}")
    if names:
        return [placement for placement in table.values() if placement.name in names]
    return [
        placement
        for placement in table.values()
        if placement.ranks <= (gpus or towers) and not placement.on_request
    ]
