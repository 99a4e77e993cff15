"""SIGINT, SIGTERM and SIGHUP: end a program in order, or ask a training to stop.

Importing this module has SIGINT end the process at once, without a traceback. Programs import it
before torch and the rest, which take seconds; ``run_program`` then takes over.
"""

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ECHO = 1.0
"""Seconds in which a signal that comes again is the same one: Slurm tells every process of a job,
and so does the launcher that it has told."""

signal.signal(signal.SIGINT, signal.SIG_DFL)


class Interrupted(KeyboardInterrupt):
    """Raised by one of ``SIGNALS`` in a program that does not handle them itself."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def interrupt_on_signals() -> None:
    """Have ``SIGNALS`` raise Interrupted."""
    _handle(_interrupt)


def end_on_signals() -> None:
    """Have ``SIGNALS`` end the process at once."""
    _handle(signal.SIG_DFL)


def _handle(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in SIGNALS:
        # Under nohup SIGHUP is ignored, and stays so.
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


@contextlib.contextmanager
def held_signals() -> Iterator[Callable[[], None]]:
    """Hold ``SIGNALS`` back until the body calls what it is given, or ends.

    A process is started so: a signal between its start and the ``try`` that would end it again
    leaves it behind.
    """
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    _handle(lambda number, frame: came.append(number))

    def release() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        while came:
            signal.raise_signal(came.pop())

    try:
        yield release
    finally:
        release()


class StopRequest:
    """Remember a signal instead of ending; the second one ends the process at once."""

    def __init__(self) -> None:
        self.signal = self.told = 0
        self._finding: Callable[[], float] = lambda: 0.0
        _handle(self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, signal.SIG_IGN)
        time.sleep(ECHO)
        signal.signal(number, signal.SIG_DFL)

    def agreed(self, start_largest: Callable[[float], Callable[[], float]]) -> int:
        """The signal that any rank had received by the last call, on every rank; 0 for none.

        ``start_largest`` begins to find the largest of all ranks' values, which is read in the
        next call: nobody waits for it.
        """
        found, self._finding = self._finding, start_largest(self.signal)
        number = int(found())
        if number and not self.told:
            log.info("stopping after this step; the same again ends the run at once")
            self.told = number
        return number
