"""A rank's failure: which rank reports it, in which words, and the exit status of all."""

import re
import signal
import time
import traceback

import torch
import torch.distributed as dist

from common.errors import ReportedError
from launch.heartbeat import NoAnswerError, describe_ranks
from launch.world import group_store, launched_world

WAIT_FOR_RANK_0 = 20.0
"""Seconds that a rank without a process group gives rank 0 to report the same failure."""


def agree_on_failure(status: int) -> tuple[int, bool]:
    """Return (exit status of the first rank to fail, True if that is this rank)."""
    if not dist.is_initialized():
        if launched_world().rank:
            # Rank 0 reports the same. When it has, the launcher ends this wait.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(WAIT_FOR_RANK_0)
        return status, True
    try:
        store = group_store()
        if store.add("failures", 1) == 1:
            store.set("failure_status", str(status))
            return status, True
        return int(store.get("failure_status")), False
    except RuntimeError:  # the store has gone with the launcher
        return status, False


def out_of_memory(error: Exception) -> ReportedError | None:
    """The error that names the way out, if ``error`` is an allocation that failed."""
    message = str(error)
    on_cpu = isinstance(error, MemoryError) or "can't allocate memory" in message
    if not (on_cpu or isinstance(error, torch.OutOfMemoryError)):
        return None
    reason = message.splitlines()[0] if message else "an allocation failed"
    return ReportedError(
        f"not enough memory on rank {launched_world().rank} ({reason}): lower batch_size, raise "
        "optimizer.gradient_accumulation, or start more ranks",
        retry=True,
    )


def in_words(error: Exception) -> str:
    """The traceback of ``error``; if another rank is the cause, a message instead."""
    message = str(error)
    if isinstance(error, NoAnswerError):
        return _with_places(message)
    if waited := re.search(r"Timed out waiting (\d+)ms", message):
        return _with_places(f"no answer within {int(waited[1]) / 1000:.0f} s")
    if "Application timeout" in message:  # gloo ends all collectives when one of them has waited
        return _with_places("no answer in time")
    if "NCCL" in message:  # the cause is in the last line
        reason = message.strip().splitlines()[-1]
        return f"NCCL failed ({reason}); NCCL_DEBUG=WARN in the environment tells more"
    if isinstance(error, dist.DistError) or "gloo" in message or "pair closure" in message:
        # gloo's message begins with the line of its source and ends with advice.
        reason = re.sub(r"^\[\S+\] ", "", message.splitlines()[0]).partition(". ")[0]
        return f"lost the connection to another rank ({reason})"
    return traceback.format_exc()


def _with_places(message: str) -> str:
    """Add a line for each rank of the group: what it was last known to do."""
    try:
        return f"{message}\n{describe_ranks(group_store(), launched_world().size)}"
    except (RuntimeError, ValueError):  # no group yet, or its store has gone
        return message
