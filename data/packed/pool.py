"""Shards made by several processes, and how far they are."""

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import torch
from tqdm import tqdm

from common.errors import ReportedError
from data.packed.shards import Record, Task, kept, pack

log = logging.getLogger(__name__)

PLAIN_EVERY = 15.0
"""Seconds between plain lines, where there is no terminal for a live one."""

_Finished = tuple[Record, bool]
"""A shard's record, and whether the shard was there."""
_stop = ctypes.c_bool(False)
"""In a worker: shared with the program, which sets it when it is to end."""


def finish_all(tasks: Sequence[Task], workers: int) -> list[Record]:
    """The record of each task, in their order; shards that are finished and whole are kept.

    However this ends, no process goes on, and no partial file is left unless it was killed.
    Raises ReportedError when a disk refuses, or the system kills a worker.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "data.packed.pool"])
    # Not an event, whose semaphores would outlive a program that leaves at once.
    stop = context.RawValue(ctypes.c_bool, False)
    pool = ProcessPoolExecutor(min(workers, len(tasks)), context, _start_worker, (stop,))
    records: dict[str, Record] = {}
    progress = _Progress(sum(len(task.files) for task in tasks))
    try:
        with _signals_held():  # a worker half started could not be told to end
            futures = _started(pool, tasks)
        for future in as_completed(futures):
            task, (record, was_kept) = futures[future], future.result()
            records[task.name] = record
            progress.add(len(task.files), kept=was_kept)
    except BrokenProcessPool:
        raise ReportedError(
            "the system killed a worker, most likely for want of memory: run the same again with "
            "fewer --workers, which goes on from what is finished"
        ) from None
    finally:
        stop.value = True
        pool.shutdown(cancel_futures=True)
        progress.close()
    return [records[task.name] for task in tasks]


def _started(pool: ProcessPoolExecutor, tasks: Sequence[Task]) -> "dict[Future[_Finished], Task]":
    try:
        return {pool.submit(_finish, task): task for task in tasks}
    except OSError as error:  # such as a path that is too long for a socket
        raise ReportedError(
            f"workers cannot be started with the temporary folder {tempfile.gettempdir()} "
            f"({error}): set TMPDIR to another one"
        ) from None


@contextmanager
def _signals_held() -> Iterator[None]:
    """Ctrl-C and SIGTERM are answered at the end of the block."""
    held: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: held.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


def _finish(task: Task) -> _Finished:
    try:
        if record := kept(task):
            return record, True
        return pack(task, lambda: _stop.value), False
    except OSError as error:
        raise ReportedError(
            f"{task.shard} cannot be read back ({error.strerror or error}): see to its disk"
        ) from None


def _start_worker(stop: ctypes.c_bool) -> None:
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the program's to answer
    warnings.simplefilter("ignore")  # PIL's, about odd files that it reads all the same
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker waits for work for ever, also for that of a parent which was killed."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


class _Progress:
    """Images of finished shards: a live line on a terminal, a plain one now and then elsewhere."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.kept = total, 0, 0
        self.started = self.spoke = time.monotonic()
        live = sys.stderr.isatty()
        self.bar = tqdm(total=total, unit="image", dynamic_ncols=True, disable=not live)

    def add(self, images: int, *, kept: bool) -> None:
        self.done += images
        self.kept += images * kept
        self.bar.update(images)
        now = time.monotonic()
        if self.bar.disable and now - self.spoke >= PLAIN_EVERY:
            self.spoke = now
            packed = max(1, self.done - self.kept)
            left = (now - self.started) / packed * (self.total - self.done)
            log.info(
                "%s of %s images  %.0f images/s  %s left",
                f"{self.done:,}",
                f"{self.total:,}",
                packed / (now - self.started),
                tqdm.format_interval(left),
            )

    def close(self) -> None:
        self.bar.close()
        if self.kept:
            log.info("kept %s images that were packed before", f"{self.kept:,}")
