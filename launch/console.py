"""A program's messages: on the terminal, and in a log file."""

import io
import logging
import os
import sys
from pathlib import Path

from tqdm import tqdm
from typing_extensions import override

from common.errors import ReportedError
from common.files import writing

OURS = "__main__", *(path.parent.name for path in Path(__file__).parents[1].glob("*/__init__.py"))
"""The loggers of this project's programs and packages."""


class Console(logging.Handler):
    """Write messages to standard output, errors to standard error, above a progress bar."""

    refusal: str | None = None

    def check(self) -> None:
        """Raise ReportedError if a message could not be written, and no log file has it."""
        kept = any(isinstance(each, logging.FileHandler) for each in logging.getLogger().handlers)
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
            _silence_standard_output()


def open_console(rank: int) -> Console:
    """Send rank 0's messages to the terminal; of the other ranks, errors alone."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where it was closed
            stream.reconfigure(errors="backslashreplace")  # a file's name may be no valid text
    logging.raiseExceptions = False  # no traceback when a full disk refuses a log file, wandb's too
    console = Console()
    if rank == 0:
        logging.basicConfig(format="%(message)s", handlers=[console])
        for name in OURS:  # of other packages, warnings alone
            logging.getLogger(name).setLevel(logging.INFO)
    else:
        logging.getLogger().setLevel(logging.ERROR)
        _silence_standard_output()
    return console


def _silence_standard_output() -> None:
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the life of the process


def log_to_file(path: Path) -> None:
    """Write messages to ``path`` too, with the time; raises ReportedError when it cannot be."""
    with writing(path):
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logging.getLogger().addHandler(handler)
