"""SIGINT and SIGTERM: end a program in order, or ask a training to stop.

Importing this module has SIGINT end the process at once, without a traceback. Programs import it
before torch and the rest, which take seconds; ``run_program`` then takes over.
"""

import logging
import signal
from collections.abc import Callable
from types import FrameType

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)

signal.signal(signal.SIGINT, signal.SIG_DFL)


class Interrupted(KeyboardInterrupt):
    """Raised by SIGINT and SIGTERM in a program that does not handle them itself."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def interrupt_on_signals() -> None:
    """Have SIGINT and SIGTERM raise Interrupted."""
    for number in SIGNALS:
        signal.signal(number, _interrupt)


def end_on_signals() -> None:
    """Have SIGINT and SIGTERM end the process at once."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


class StopRequest:
    """Remember SIGINT and SIGTERM instead of ending; the second one ends the process at once."""

    def __init__(self) -> None:
        self.signal = self.told = 0
        self._finding: Callable[[], float] = lambda: 0.0
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, signal.SIG_DFL)

    def agreed(self, start_largest: Callable[[float], Callable[[], float]]) -> int:
        """The signal that any rank had received by the last call, on every rank; 0 for none.

        ``start_largest`` begins to find the largest of all ranks' values, which is read in the
        next call: nobody waits for it.
        """
        found, self._finding = self._finding, start_largest(self.signal)
        number = int(found())
        if number and not self.told:
            log.info("stopping, with a checkpoint; the same again ends the run at once")
            self.told = number
        return number
