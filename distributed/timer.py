"""What a training step costs this rank: seconds by part, and bytes sent."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from distributed.device import Mark, mark_time, seconds_between
from launch.heartbeat import Whereabouts

PARTS = ("data", "forward", "exchange", "backward", "averaging", "optimizer")
"""Of a step's time; ``exchange`` and ``averaging`` are what computation does not hide."""


class StepTimer:
    """Books every moment to one of ``PARTS``; a part inside another interrupts it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes_sent = 0.0
        self.whereabouts = Whereabouts()
        self._current: str | None = None
        self._entries: list[tuple[str | None, Mark]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Book the time inside to ``name``."""
        outer = self._current
        with self.whereabouts.inside(name):
            self._book(name)
            try:
                yield
            finally:
                self._book(outer)

    def switch(self, name: str) -> None:
        """Book the time from now on to ``name``, until the part around it ends."""
        self.whereabouts.switch(name)
        self._book(name)

    def _book(self, name: str | None) -> None:
        self._current = name
        self._entries.append((name, mark_time(self.device)))

    def take(self) -> tuple[dict[str, float], int]:
        """Seconds by part and bytes sent since the last call."""
        seconds = dict.fromkeys(PARTS, 0.0)
        for (name, start), (_, end) in zip(self._entries, self._entries[1:], strict=False):
            if name:
                seconds[name] += seconds_between(start, end)
        sent = round(self.bytes_sent)
        self._entries.clear()
        self.bytes_sent = 0.0
        return seconds, sent
