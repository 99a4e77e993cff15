"""The folder of a run: its layout, and which process it belongs to."""

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
    """A start of a run: the first has number 1. ``marks`` identify the launch that made it."""

    number: int
    marks: list[str]


@dataclass
class RunFolder:
    """``runs/NAME``: the files of one run, never shared with another run."""

    path: Path

    def __post_init__(self) -> None:
        """Name the files."""
        self.config = self.path / "config.yaml"  # the resolved configuration
        self.launch = self.path / "launch.json"  # the last attempt
        self.log = self.path / "log.txt"  # the output of rank 0
        self.metrics = self.path / "metrics.jsonl"  # a line for each training step and evaluation
        self.curves = self.path / "curves.png"  # the metrics as a picture
        self.kernels = self.path / "kernels.png"  # the first layer's kernels
        self.summary = self.path / "summary.json"  # the outcome, with flat keys
        self.checkpoints = self.path / "checkpoints"  # a folder for each

    @staticmethod
    def create(runs: Path, name: str) -> "RunFolder":
        """Make the folder ``runs/name`` or, if that is taken, ``runs/name-N`` with the next N.

        Raises ReportedError if the disk refuses.
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
        """The folder that ``create`` made last for ``name``; raises ReportedError without one."""
        numbers = _numbers(runs, name)
        if not numbers:
            raise ReportedError(
                f"there is no run {runs / name} to resume: start it without --resume"
            )
        return RunFolder(_numbered(runs, name, max(numbers)))

    @staticmethod
    def of_launch(runs: Path, name: str, marks: set[str]) -> "RunFolder | None":
        """The newest folder for ``name`` that the launch with ``marks`` has begun, if any.

        Anyone may use an ``--rdzv-id`` again, so this mark alone does not match a finished run.
        """
        for number in sorted(_numbers(runs, name), reverse=True):
            folder = RunFolder(_numbered(runs, name, number))
            shared = marks & set(folder.last_attempt().marks)
            if any(not mark.startswith("id ") for mark in shared) or (shared and not folder.ended):
                return folder
        return None

    def last_attempt(self) -> "Attempt":
        """The last attempt that ``begin`` noted; number 1 without marks if there is none."""
        try:
            return Attempt(**json.loads(self.launch.read_text()))
        except (OSError, ValueError, TypeError):
            return Attempt(1, [])

    def begin(self, attempt: "Attempt") -> None:
        """Note an attempt; raises ReportedError if the disk refuses."""
        with replacing(self.launch) as aside:
            aside.write_text(json.dumps(asdict(attempt), indent=1))

    @property
    def ended(self) -> bool:
        """True if all steps of the run are done, and the last evaluation."""
        try:
            summary = json.loads(self.summary.read_text())
            return bool(min(summary["steps"], summary["test_step"]) >= summary["total_steps"])
        except (OSError, ValueError, KeyError):
            return False

    def claim(self, patience: float = 0.0) -> None:
        """Lock the folder until this process ends.

        Raises ReportedError if another process still holds it after ``patience`` seconds.
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


def _numbered(runs: Path, name: str, number: int) -> Path:
    return runs / (name if number == 1 else f"{name}-{number}")


def _numbers(runs: Path, name: str) -> list[int]:
    """The numbers of the existing folders for ``name``; the one without a number has 1."""
    pattern = re.compile(re.escape(name) + r"(?:-([2-9]|[1-9]\d+))?")
    found = [pattern.fullmatch(path.name) for path in runs.iterdir()] if os.path.isdir(runs) else []
    return [int(match[1] or 1) for match in found if match]
