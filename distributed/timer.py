"""The cost of a training step on this rank: seconds by part, and bytes sent."""

import itertools
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, NamedTuple

import torch
from typing_extensions import Self

from distributed.device import Mark, mark_time, seconds_between
from launch.heartbeat import Whereabouts


@dataclass(frozen=True)
class StepCost:
    """One training step on one rank, or the median of several.

    The fields are the names of these quantities everywhere: in ``metrics.jsonl``, ``summary.json``,
    ``results.json`` and W&B. ``seconds_…`` is the time booked to a part, ``bytes_sent`` what this
    rank sends to others, and ``bytes_at`` the same by the boundary that it crosses: a layer where
    ranks meet, or the gradients of a stage.
    """

    seconds_data: float = 0.0
    seconds_forward: float = 0.0
    seconds_activation_communication: float = 0.0
    seconds_backward: float = 0.0
    seconds_gradient_communication: float = 0.0
    seconds_optimizer: float = 0.0
    bytes_sent: int = 0
    bytes_at: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, values: dict[str, Any], prefix: str = "") -> Self:
        """The cost among flat ``values``, whose keys begin with ``prefix``."""
        known = {each.name: values.get(prefix + each.name) for each in fields(cls)}
        at = f"{prefix}bytes_at/"
        sent = {key.removeprefix(at): values[key] for key in values if key.startswith(at)}
        cost = cls(**{name: value for name, value in known.items() if value is not None})
        return replace(cost, bytes_at=sent) if sent else cost

    def flat(self) -> dict[str, Any]:
        """The fields as flat keys; bytes at conv3 are ``bytes_at/conv3``."""
        values = asdict(self)
        sent = values.pop("bytes_at")
        return {**values, **{f"bytes_at/{boundary}": count for boundary, count in sent.items()}}

    @classmethod
    def median(cls, costs: Sequence[Self]) -> Self:
        """The median of each field; raises StatisticsError without any costs."""
        seconds = {
            each.name: statistics.median(getattr(cost, each.name) for cost in costs)
            for each in fields(cls)
            if each.name.startswith("seconds_")
        }
        sent = round(statistics.median(cost.bytes_sent for cost in costs))
        boundaries = {name for cost in costs for name in cost.bytes_at}
        at = {
            name: round(statistics.median(cost.bytes_at.get(name, 0) for cost in costs))
            for name in sorted(boundaries)
        }
        return cls(**seconds, bytes_sent=sent, bytes_at=at)

    @property
    def parts(self) -> dict[str, float]:
        """Seconds by part."""
        names = (each.name for each in fields(self) if each.name.startswith("seconds_"))
        return {name.removeprefix("seconds_"): getattr(self, name) for name in names}

    @property
    def own_seconds(self) -> float:
        """Time of this rank's own work, without waiting for others."""
        waiting = self.seconds_activation_communication + self.seconds_gradient_communication
        return sum(self.parts.values()) - waiting


PARTS = tuple(StepCost().parts)
"""The parts of a step's time. Communication is booked as far as computation does not hide it."""
LABELS = dict(zip(PARTS, PARTS, strict=True)) | {
    "activation_communication": "activations",
    "gradient_communication": "gradients",
}
"""Short names of the parts, for a person: communication is that of activations and gradients."""


class StepMarks(NamedTuple):
    """The parts of a step in time, and the bytes it sent; a GPU may not have come that far yet.

    Each mark begins what its name says, or nothing in particular; the last one ends the step.
    """

    marks: list[tuple[str | None, Mark]]
    sent: dict[str, int]

    @property
    def end(self) -> Mark:
        """The end of the step."""
        return self.marks[-1][1]

    def cost(self) -> StepCost:
        """The cost; on a GPU, wait until it has done the work."""
        seconds = dict.fromkeys(PARTS, 0.0)
        for (name, start), (_, end) in itertools.pairwise(self.marks):
            if name:
                seconds[name] += seconds_between(start, end)
        booked = {f"seconds_{part}": s for part, s in seconds.items()}
        return StepCost(**booked, bytes_sent=sum(self.sent.values()), bytes_at=self.sent)


class StepTimer:
    """Books every moment to one of ``PARTS``; a part inside another interrupts it."""

    def __init__(self, device: torch.device, whereabouts: Whereabouts | None = None) -> None:
        """``whereabouts`` are those of this process, if it has some already."""
        self.device = device
        self.sent: Counter[str] = Counter()
        """Bytes sent since the last ``take``, by the boundary that they crossed."""
        self.whereabouts = whereabouts or Whereabouts()
        self._current: str | None = None
        self._entries: list[tuple[str | None, Mark]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Book the time inside to ``name``."""
        outer = self._current
        with self.whereabouts.inside(_words(name)):
            self._book(name)
            try:
                yield
            finally:
                self._book(outer)

    def switch(self, name: str) -> None:
        """Book the time from now on to ``name``, until the part around it ends."""
        self.whereabouts.switch(_words(name))
        self._book(name)

    def _book(self, name: str | None) -> None:
        self._current = name
        self._entries.append((name, mark_time(self.device)))

    def take(self) -> StepMarks:
        """The time and the bytes booked since the last call."""
        taken = StepMarks(self._entries, {at: round(count) for at, count in self.sent.items()})
        self._entries = []
        self.sent.clear()
        return taken


def _words(part: str) -> str:
    return part.replace("_", " ")
