"""The folder of a run, and what lies in it."""

import fcntl
import json
import os
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from common.errors import ReportedError
from common.files import replacing, writing


@dataclass(frozen=True)
class Attempt:
    """One start of a run, by the launch with ``marks``."""

    number: int
    marks: list[str]


@dataclass(frozen=True)
class RunFolder:
    """``runs/NAME``: one run's files, never shared with another run."""

    path: Path

    @staticmethod
    def create(runs: Path, name: str) -> "RunFolder":
        """A new folder ``runs/name`` or, where that is taken, the first free ``runs/name-N``.

        Raises ReportedError when the disk refuses.
        """
        numbers = _numbers(runs, name)
        while True:
            number = max(numbers, default=0) + 1
            path = _numbered(runs, name, number)
            with writing(path):
                runs.mkdir(parents=True, exist_ok=True)
                try:
                    path.mkdir()
                except FileExistsError:  # taken since we looked
                    numbers.append(number)
                    continue
            return RunFolder(path)

    @staticmethod
    def newest(runs: Path, name: str) -> "RunFolder":
        """The last folder that ``create`` made for ``name``; raises ReportedError without any."""
        numbers = _numbers(runs, name)
        if not numbers:
            raise ReportedError(
                f"there is no run {runs / name} to resume: start it without --resume"
            )
        return RunFolder(_numbered(runs, name, max(numbers)))

    @staticmethod
    def of_launch(runs: Path, name: str, marks: set[str]) -> "RunFolder | None":
        """The folder for ``name`` that was last begun by the launch with ``marks``, if any was.

        An ``--rdzv-id`` alone, which anyone may give again, does not lead to a run that has ended.
        """
        for number in sorted(_numbers(runs, name), reverse=True):
            folder = RunFolder(_numbered(runs, name, number))
            shared = marks & set(folder.last_attempt().marks)
            if any(not mark.startswith("id ") for mark in shared) or (shared and not folder.ended):
                return folder
        return None

    def last_attempt(self) -> "Attempt":
        """The last attempt that was begun here; number 1, of no launch, where none is noted."""
        try:
            return Attempt(**json.loads(self.launch.read_text()))
        except (OSError, ValueError, TypeError):
            return Attempt(1, [])

    def begin(self, attempt: "Attempt") -> None:
        """Note what ``last_attempt`` tells; raises ReportedError when the disk refuses."""
        with replacing(self.launch) as aside:
            aside.write_text(json.dumps(asdict(attempt), indent=1))

    @property
    def ended(self) -> bool:
        """Whether all steps of the run were done."""
        try:
            summary = json.loads(self.summary.read_text())
            return bool(summary["steps"] >= summary["total_steps"])
        except (OSError, ValueError, KeyError):
            return False

    def claim(self, patience: float = 0.0) -> None:
        """Keep other processes out until this one ends.

        Raises ReportedError if one is in, and still is after ``patience`` seconds.
        """
        handle, deadline = os.open(self.path, os.O_RDONLY), time.monotonic() + patience
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                if time.monotonic() < deadline:
                    time.sleep(0.1)
                    continue
                os.close(handle)
                taken = f"{self.path} is in use by another run: wait for its end"
                raise ReportedError(taken) from None

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def launch(self) -> Path:
        """The last attempt: its number, and who launched it."""
        return self.path / "launch.json"

    @property
    def log(self) -> Path:
        """What rank 0 said."""
        return self.path / "log.txt"

    @property
    def metrics(self) -> Path:
        """One JSON object a line: every training step, every evaluation."""
        return self.path / "metrics.jsonl"

    @property
    def curves(self) -> Path:
        """The metrics as a picture."""
        return self.path / "curves.png"

    @property
    def kernels(self) -> Path:
        """The first layer's kernels as a picture."""
        return self.path / "kernels.png"

    @property
    def summary(self) -> Path:
        """The outcome, as flat JSON."""
        return self.path / "summary.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"


def _numbered(runs: Path, name: str, number: int) -> Path:
    return runs / (name if number == 1 else f"{name}-{number}")


def _numbers(runs: Path, name: str) -> list[int]:
    """The numbers of the folders that exist for ``name``, the unnumbered one being the first."""
    pattern = re.compile(re.escape(name) + r"(?:-([2-9]|[1-9]\d+))?")
    found = [pattern.fullmatch(path.name) for path in runs.iterdir()] if os.path.isdir(runs) else []
    return [int(match[1] or 1) for match in found if match]
