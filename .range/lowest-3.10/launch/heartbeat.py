"""Heartbeats: each rank tells the store what it is doing, and a rank that waits in vain reads it.

A rank that is stopped falls silent. One that sleeps in its own work is still heard of, because a
thread of its own sends the heartbeat.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

EVERY = 1.0
"""Seconds between two heartbeats."""
SILENT_AFTER = 5 * EVERY


class NoAnswerError(RuntimeError):
    """A rank has waited for another for as long as it may."""


class Whereabouts:
    """This rank's activity, from the outermost to the innermost, and the time it began.

    Another thread may read ``place`` and ``since`` (``time.monotonic``).
    """

    def __init__(self) -> None:
        self.place: tuple[str, ...] = ()
        self.since = time.monotonic()

    @contextmanager
    def inside(self, activity: str) -> Iterator[None]:
        """Add ``activity`` to the place; an exception leaves it there for the error report."""
        outer = self.place
        self._move((*outer, activity))
        yield
        self._move(outer)

    def switch(self, activity: str) -> None:
        """Replace the innermost activity."""
        self._move((*self.place[:-1], activity))

    def _move(self, place: tuple[str, ...]) -> None:
        self.place, self.since = place, time.monotonic()


def send_heartbeats(store: dist.Store, rank: int, whereabouts: Whereabouts) -> None:
    """Start a thread that tells ``store`` what this rank is doing, until the main thread ends."""
    arguments = (store.clone(), rank, whereabouts)
    threading.Thread(target=_send, args=arguments, name="heartbeat").start()


def _send(store: dist.Store, rank: int, whereabouts: Whereabouts) -> None:
    main = threading.main_thread()
    while main.is_alive():
        place, seconds = whereabouts.place, time.monotonic() - whereabouts.since
        try:
            store.set(_key(rank), json.dumps([time.time(), ", ".join(place), seconds]))
        except RuntimeError:  # the store has gone with the process that kept it
            return
        main.join(EVERY)


def wait_for_key(store: dist.Store, key: str, rank: int, silence: float, limit: float) -> None:
    """Wait until ``rank`` sets ``key``.

    Raises NoAnswerError after ``limit`` seconds, or once ``rank`` has been silent for ``silence``
    seconds.
    """
    began = heard = asked = time.monotonic()
    beat = b""
    while not store.check([key]):
        time.sleep(0.02)
        now = time.monotonic()
        if now - asked > EVERY:
            last, beat, asked = beat, _last_beat(store, rank), now
            heard = heard if beat == last else now
        if now - heard > silence or now - began > limit:
            raise NoAnswerError(f"no answer from rank {rank} within {now - began:.0f} s")


def describe_ranks(store: dist.Store, world_size: int) -> str:
    """A line for each rank: what it was last known to do, and for how long."""
    beats = [_last_beat(store, rank) for rank in range(world_size)]
    return "\n".join(f"  rank {rank:<3} {_in_words(beat)}" for rank, beat in enumerate(beats))


def _last_beat(store: dist.Store, rank: int) -> bytes:
    """The last heartbeat of a rank; empty before its first."""
    return store.get(_key(rank)) if store.check([_key(rank)]) else b""


def _in_words(beat: bytes) -> str:
    if not beat:
        return "never heard of"
    sent, place, seconds = json.loads(beat)
    where, silent = f"in {place}" if place else "between two steps", time.time() - sent
    if silent > SILENT_AFTER:
        return f"silent for {silent:.0f} s, last seen {where}"
    return f"{where}, for {seconds + silent:.0f} s"


def _key(rank: int) -> str:
    return f"heartbeat of rank {rank}"
