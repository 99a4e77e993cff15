"""How a program starts and ends: its log, its signals, and one sentence for the user's mistakes."""

import argparse
import contextlib
import ctypes
import io
import logging
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from tqdm import tqdm
from typing_extensions import override

from common.errors import ReportedError
from common.files import writing
from distributed.mesh import Mesh, group_store
from launch.heartbeat import NoAnswerError, who_waits_where
from launch.world import launched_world

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PR_SET_PDEATHSIG = 1
WAIT_FOR_RANK_0 = 20.0
LONGEST_ENDING = timedelta(seconds=60)


def run_program(main: Callable[[], int]) -> None:
    """Run ``main`` and end the process; of several ranks that fail, only the first one speaks.

    Exit status: what ``main`` returns, 2 after an ReportedError, 128 + N after signal N (SIGINT or
    SIGTERM, unless ``main`` sees to them), 1 after any other exception. A failing rank leaves at
    once, without waiting for collectives that will never complete.
    """
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    try:
        status = _run(main)
    except Interrupted as signalled:
        status = _leave_group(128 + signalled.number)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    sys.exit(status)


class Interrupted(KeyboardInterrupt):
    """What SIGINT and SIGTERM raise in a program that does not see to them itself."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


def _run(main: Callable[[], int]) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where it was closed
            stream.reconfigure(errors="backslashreplace")  # a name may be no text at all
    console = _Console()
    if launched_world().rank == 0:
        logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[console])
    else:
        logging.getLogger().setLevel(logging.ERROR)  # what rank 0 also says, it says alone
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the life of the process
    _die_with_parent()
    try:
        status = main()
        console.check()
    except Exception as error:
        told = error if isinstance(error, (ReportedError, ReportedError)) else _out_of_memory(error)
        status, is_first = _agree_on_failure(told.status if told else 1)
        if is_first:  # a rank without a log of its own says it on standard error all the same
            log.error("error: %s", told or in_words(error))
        return _leave_group(status)
    if dist.is_initialized():
        if status:
            _let_rank_0_end()
        dist.destroy_process_group()
    return status


def _let_rank_0_end() -> None:
    """Wait for rank 0: the launcher ends all ranks when the first has ended with a status."""
    with contextlib.suppress(RuntimeError):  # the store has gone with the launcher
        if launched_world().rank == 0:
            group_store().set("rank 0 ends", "")
        else:
            group_store().wait(["rank 0 ends"], LONGEST_ENDING)


def _leave_group(status: int) -> int:
    """``status``, outside of a process group; in one the process ends here and now with it."""
    if dist.is_initialized():
        os._exit(status)
    return status


def _out_of_memory(error: Exception) -> ReportedError | None:
    """What to do about an allocation that failed, if ``error`` is one."""
    message = str(error)
    on_cpu = isinstance(error, MemoryError) or "can't allocate memory" in message
    if not (on_cpu or isinstance(error, torch.OutOfMemoryError)):
        return None
    reason = message.splitlines()[0] if message else "an allocation failed"
    return ReportedError(
        f"not enough memory on rank {launched_world().rank} ({reason}): lower batch_size, raise "
        "optimizer.gradient_accumulation, or start more ranks"
    )


def in_words(error: Exception) -> str:
    """The traceback of ``error``; where another rank is at fault, a line, or who waits where."""
    message = str(error)
    if isinstance(error, NoAnswerError):
        return _with_places(message)
    if waited := re.search(r"Timed out waiting (\d+)ms", message):
        return _with_places(f"no answer within {int(waited[1]) / 1000:.0f} s")
    if isinstance(error, dist.DistError) or "gloo" in message or "pair closure" in message:
        # gloo begins with the place in its source, and goes on with advice
        reason = re.sub(r"^\[\S+\] ", "", message.splitlines()[0]).partition(". ")[0]
        return f"lost the connection to another rank ({reason})"
    return traceback.format_exc()


def _with_places(message: str) -> str:
    """The message and, if there is a group, what each of its ranks was last seen at."""
    try:
        return f"{message}\n{who_waits_where(group_store(), launched_world().size)}"
    except (RuntimeError, ValueError):  # no group yet, or its store has gone
        return message


class ArgumentParser(argparse.ArgumentParser):
    """Shows its description as it is written; a wrong command line is an ReportedError."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    @override
    def error(self, message: str) -> NoReturn:
        message = message.replace(", key.sub=value", "")  # which may be left out
        raise ReportedError(f"{message}; --help says what there is")


class StopRequest:
    """Whether Ctrl-C or SIGTERM has asked this process to stop; a second one ends it at once."""

    def __init__(self) -> None:
        self.signal = self.told = 0
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, signal.SIG_DFL)

    def agreed(self, mesh: Mesh) -> int:
        """The signal that any rank was sent, on every rank; 0 for none."""
        number = int(mesh.largest(self.signal))
        if number and not self.told:
            log.info("stopping, with a checkpoint; the same again ends the run at once")
            self.told = number
        return number


def log_to_file(path: Path) -> None:
    """Have what is said on the terminal written to a file as well, with the time."""
    with writing(path):
        handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logging.getLogger().addHandler(handler)


class _LogFile(logging.FileHandler):
    """What a full disk refuses is on the terminal alone."""

    @override
    def handleError(self, record: logging.LogRecord) -> None: ...


class _Console(logging.Handler):
    """Standard output, or error, above the live line if there is one."""

    refusal: str | None = None

    def check(self) -> None:
        """Raise ReportedError if something could not be said, and is in no log either."""
        kept = any(isinstance(each, _LogFile) for each in logging.getLogger().handlers)
        if self.refusal and not kept:
            raise ReportedError(f"cannot write standard output: {self.refusal}")

    @override
    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.ERROR else sys.stdout
        try:
            tqdm.write(self.format(record), file=stream)
            stream.flush()
        except (OSError, ValueError, AttributeError) as error:
            # Nobody reads any more (a closed pipe, a full disk): the run goes on without a word.
            if not isinstance(error, BrokenPipeError):
                self.refusal = getattr(error, "strerror", None) or "it is closed"
            logging.getLogger().removeHandler(self)
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the life of the process


def _die_with_parent() -> None:
    """On Linux, have the kernel end this rank if its launcher is killed before it can do so."""
    if "RANK" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if _is_orphan():  # the launcher died before we could ask
            os._exit(1)


def _is_orphan() -> bool:
    parent = os.getppid()
    name = Path(f"/proc/{parent}/comm").read_text().strip()
    # In a container the launcher itself may be process 1.
    launcher = name.startswith(("pt_elastic", "torchrun", "python"))
    return name == "systemd" or (parent == 1 and not launcher)


def _agree_on_failure(status: int) -> tuple[int, bool]:
    """(exit status of the first failure, whether it is this rank's)."""
    if not dist.is_initialized():
        if launched_world().rank:
            # Rank 0 has the same to say. When it has, the launcher ends this wait.
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
