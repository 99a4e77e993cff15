"""Who waits where: every rank tells the store what it is at, and one that waits in vain reads it.

A rank that is stopped falls silent. One that sleeps in its own work says so, since it is another
thread that tells.
"""

import json
import threading
import time

import torch.distributed as dist

from distributed.timer import StepTimer

EVERY = 1.0
"""Seconds between two words of a rank."""
SILENT_AFTER = 5 * EVERY


class NoAnswerError(RuntimeError):
    """A rank has waited for another as long as it may."""


def watch(store: dist.Store, rank: int, timer: StepTimer) -> None:
    """Tell ``store`` what this rank is at, from a thread that ends with the main one."""
    threading.Thread(target=_tell, args=(store.clone(), rank, timer), name="watch").start()


def _tell(store: dist.Store, rank: int, timer: StepTimer) -> None:
    main = threading.main_thread()
    while main.is_alive():
        place, seconds = timer.place, time.monotonic() - timer.since
        try:
            store.set(_key(rank), json.dumps([time.time(), ", ".join(place), seconds]))
        except RuntimeError:  # the store has gone with the process that kept it
            return
        main.join(EVERY)


def wait_for_key(store: dist.Store, key: str, rank: int, silence: float, limit: float) -> None:
    """Wait until ``rank`` sets ``key``, which may take ``limit`` seconds.

    Raises NoAnswerError when it does not, or says nothing at all for ``silence`` seconds.
    """
    began = heard = asked = time.monotonic()
    word = b""
    while not store.check([key]):
        time.sleep(0.02)
        now = time.monotonic()
        if now - asked > EVERY:
            last, word, asked = word, _word_of(store, rank), now
            heard = heard if word == last else now
        if now - heard > silence or now - began > limit:
            raise NoAnswerError(f"no answer from rank {rank} within {now - began:.0f} s")


def who_waits_where(store: dist.Store, world_size: int) -> str:
    """A line for each rank: what it is at, and for how long."""
    words = [_word_of(store, rank) for rank in range(world_size)]
    return "\n".join(f"  rank {rank:<3} {_told(word)}" for rank, word in enumerate(words))


def _word_of(store: dist.Store, rank: int) -> bytes:
    """The last word of a rank; empty before its first."""
    return store.get(_key(rank)) if store.check([_key(rank)]) else b""


def _told(word: bytes) -> str:
    if not word:
        return "never heard of"
    said, place, seconds = json.loads(word)
    where, silent = f"in {place}" if place else "between two steps", time.time() - said
    if silent > SILENT_AFTER:
        return f"silent for {silent:.0f} s, last seen {where}"
    return f"{where}, for {seconds + silent:.0f} s"


def _key(rank: int) -> str:
    return f"watch/{rank}"
