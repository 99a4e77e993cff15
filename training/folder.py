"""The folder of a run, and what lies in it."""

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import InputError
from model.files import open_plain


@dataclass(frozen=True)
class RunFolder:
    """``runs/NAME``: one run's files, never shared with another run."""

    path: Path

    @staticmethod
    def create(runs: Path, name: str) -> "RunFolder":
        """A new folder ``runs/name`` or, where that is taken, the first free ``runs/name-N``.

        Raises InputError when the disk refuses.
        """
        numbers = _numbers(runs, name)
        while True:
            number = max(numbers, default=0) + 1
            path = runs / (name if number == 1 else f"{name}-{number}")
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
        """The last folder that ``create`` made for ``name``; raises InputError without any."""
        numbers = _numbers(runs, name)
        if not numbers:
            raise InputError(f"there is no run {runs / name} to resume: start it without --resume")
        last = max(numbers)
        return RunFolder(runs / (name if last == 1 else f"{name}-{last}"))

    def claim(self) -> None:
        """Keep other processes out until this one ends; raises InputError if one is in already."""
        handle = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise InputError(f"{self.path} is in use by another run: wait for its end") from None

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

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


class MetricsFile:
    """Appends to ``metrics.jsonl``; steps after ``step``, from before a resume, are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = [line for line in read_metrics(path) if line["step"] <= step]
        with writing(path):
            aside = path.with_suffix(".part")
            aside.write_text("".join(json.dumps(line) + "\n" for line in kept))
            aside.replace(path)
            self.file = path.open("a", buffering=1)

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Write one line; raises InputError when the disk refuses."""
        with writing(self.path):
            self.file.write(json.dumps({"step": step, **metrics}) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; what else is there, as a line cut short by a crash, is left out.

    Raises InputError when the file cannot be read.
    """
    try:
        with open_plain(path) as file:
            lines = file.read().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    return [metrics for metrics in map(_metrics, lines) if metrics]


def _metrics(line: bytes) -> dict[str, Any] | None:
    try:
        metrics = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return metrics if isinstance(metrics, dict) and isinstance(metrics.get("step"), int) else None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make the disk's refusal of ``path`` an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path``, with its suffix; what is written there takes its place if whole.

    Raises InputError when the disk refuses; then, and after any other failure, nothing changes.
    """
    aside = path.with_name(f".{path.stem}.part{path.suffix}")
    with writing(path):
        try:
            yield aside
            handle = os.open(aside, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)


def _numbers(runs: Path, name: str) -> list[int]:
    """The numbers of the folders that exist for ``name``, the unnumbered one being the first."""
    pattern = re.compile(re.escape(name) + r"(?:-([2-9]|[1-9]\d+))?")
    found = [pattern.fullmatch(path.name) for path in runs.iterdir()] if os.path.isdir(runs) else []
    return [int(match[1] or 1) for match in found if match]
