"""Make shards in several processes, and report progress."""

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from launch.signals import held_signals

import torch
from tqdm import tqdm

from common.errors import ReportedError
from data.packed.shards import Record, Task, finished, pack
from data.packed.storing import CONTINUE

log = logging.getLogger(__name__)

PLAIN_EVERY = 15.0
"""Seconds between lines of progress where there is no terminal for a live one."""


def finish_all(tasks: Sequence[Task], workers: int) -> list[Record]:
    """Make the shards that are not finished; return the record of each task, in their order.

    No process is left when this ends. Raises ReportedError when a disk refuses, or when the system
    kills a worker.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "data.packed.pool"])
    pool = ProcessPoolExecutor(min(workers, len(tasks)), context, _start_worker)
    before = set(multiprocessing.active_children())
    progress = _Progress(sum(len(task.files) for task in tasks))
    try:
        with held_signals():  # a worker that has only half started could not be ended
            futures = _submitted(pool, tasks)
        for future in as_completed(futures):
            _, was_finished = future.result()
            progress.add(len(futures[future].files), kept=was_finished)
    except BaseException as error:
        for worker in set(multiprocessing.active_children()) - before:
            worker.terminate()  # else it would first finish its shard
        if isinstance(error, BrokenProcessPool):
            raise ReportedError(
                f"the system killed a worker, probably because memory ran out: {CONTINUE}, with "
                "fewer --workers"
            ) from None
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        progress.close()
    return [future.result()[0] for future in futures]


def _submitted(
    pool: ProcessPoolExecutor, tasks: Sequence[Task]
) -> "dict[Future[tuple[Record, bool]], Task]":
    """Submit the tasks, which starts the workers."""
    try:
        return {pool.submit(_finish, task): task for task in tasks}
    except OSError as error:  # such as a path that is too long for a socket
        raise ReportedError(
            f"cannot start workers with the temporary folder {tempfile.gettempdir()} ({error}): "
            "set TMPDIR to another folder"
        ) from None


def _start_worker() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):  # of a terminal: the main process answers
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # for terminate(), even if it was ignored
    warnings.simplefilter("ignore")  # PIL warns of unusual files that it reads all the same
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent ends, even if that was killed."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _finish(task: Task) -> tuple[Record, bool]:
    """The record of a task, and whether its shard was finished before."""
    try:
        if record := finished(task):
            return record, True
        return pack(task), False
    except OSError as error:
        raise ReportedError(
            f"{task.target / task.shard} cannot be read back ({error.strerror or error}): check "
            "its disk"
        ) from None


class _Progress:
    """Count the images of finished shards, on a live line or, without a terminal, plain lines."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.kept = total, 0, 0
        self.started = self.reported = time.monotonic()
        live = sys.stderr.isatty()
        self.bar = tqdm(total=total, unit="image", dynamic_ncols=True, disable=not live)

    def add(self, images: int, *, kept: bool) -> None:
        self.done += images
        self.kept += images * kept
        self.bar.update(images)
        now = time.monotonic()
        if self.bar.disable and now - self.reported >= PLAIN_EVERY:
            self.reported = now
            rate = max(1, self.done - self.kept) / (now - self.started)
            left = tqdm.format_interval((self.total - self.done) / rate)
            log.info("%d of %d images  %.0f images/s  %s left", self.done, self.total, rate, left)

    def close(self) -> None:
        self.bar.close()
        if self.kept:
            log.info("kept %s images that were packed before", f"{self.kept:,}")
