"""What a training step costs this rank: seconds by part, and bytes sent."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from distributed.device import Mark, mark_time, seconds_between

PARTS = ("data", "forward", "exchange", "backward", "averaging", "optimizer")
"""Of a step's time; ``exchange`` and ``averaging`` are what computation does not hide."""


class StepTimer:
    """Books every moment to one of ``PARTS``; a part inside another interrupts it.

    ``place`` says, from the outermost to the innermost, what this rank is at, since ``since``
    (``time.monotonic``). Another thread may read it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes_sent = 0.0
        self.place: tuple[str, ...] = ()
        self.since = time.monotonic()
        self._current: str | None = None
        self._entries: list[tuple[str | None, Mark]] = []

    @contextmanager
    def inside(self, what: str) -> Iterator[None]:
        """Have ``place`` say ``what`` meanwhile, without booking anything.

        An exception leaves it there, for the report of what went wrong.
        """
        outer = self.place
        self._move((*outer, what))
        yield
        self._move(outer)

    def _move(self, place: tuple[str, ...]) -> None:
        self.place, self.since = place, time.monotonic()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Book the time inside to ``name``."""
        outer = self._current
        with self.inside(name):
            self._book(name)
            try:
                yield
            finally:
                self._book(outer)

    def switch(self, name: str) -> None:
        """Book the time from now on to ``name``, until the part around it ends."""
        self._move((*self.place[:-1], name))
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
