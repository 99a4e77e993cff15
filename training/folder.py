"""The folder of a run, and what lies in it."""

import errno
import fcntl
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model.errors import InputError
from model.files import open_plain

log = logging.getLogger(__name__)


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

        Raises InputError when the disk refuses.
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
        """The last folder that ``create`` made for ``name``; raises InputError without any."""
        numbers = _numbers(runs, name)
        if not numbers:
            raise InputError(f"there is no run {runs / name} to resume: start it without --resume")
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
        """Note what ``last_attempt`` tells; raises InputError when the disk refuses."""
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

        Raises InputError if one is in, and still is after ``patience`` seconds.
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
                raise InputError(taken) from None

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


class MetricsFile:
    """Appends to ``metrics.jsonl``; steps after ``step``, from before a resume, are dropped.

    What the disk refuses is written once it no longer does, if the run may ``go_on`` until then.
    """

    def __init__(self, path: Path, step: int, *, go_on: bool = False) -> None:
        self.path, self.go_on = path, go_on
        self.unwritten: list[str] = []
        kept = [line for line in read_metrics(path) if line["step"] <= step]
        with writing(path):
            aside = path.with_suffix(".part")
            aside.write_text("".join(json.dumps(line) + "\n" for line in kept))
            aside.replace(path)
            self.file = path.open("ab", buffering=0)

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Write one line; raises InputError when the disk refuses and the run may not go on."""
        was_refused = bool(self.unwritten)
        self.unwritten.append(json.dumps({"step": step, **metrics}) + "\n")
        try:
            self._append("".join(self.unwritten).encode())
            self.unwritten.clear()
        except InputError as error:
            if not self.go_on:
                raise
            if not was_refused:
                log.warning("%s; training goes on, and metrics wait in memory", error)

    def _append(self, text: bytes) -> None:
        """All of it or nothing."""
        with writing(self.path):
            end = os.fstat(self.file.fileno()).st_size
            try:
                if self.file.write(text) < len(text):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                self.file.truncate(end)
                raise


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; raises InputError as ``read_objects`` does."""
    return [line for line in read_objects(path) if isinstance(line.get("step"), int)]


def read_objects(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line; what else is there, as one cut short, is left out.

    Raises InputError when the file cannot be read; one that is not there has none.
    """
    try:
        with open_plain(path) as file:
            lines = file.read().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    return [value for value in map(_json_or_none, lines) if isinstance(value, dict)]


def _json_or_none(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


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


def _numbered(runs: Path, name: str, number: int) -> Path:
    return runs / (name if number == 1 else f"{name}-{number}")


def _numbers(runs: Path, name: str) -> list[int]:
    """The numbers of the folders that exist for ``name``, the unnumbered one being the first."""
    pattern = re.compile(re.escape(name) + r"(?:-([2-9]|[1-9]\d+))?")
    found = [pattern.fullmatch(path.name) for path in runs.iterdir()] if os.path.isdir(runs) else []
    return [int(match[1] or 1) for match in found if match]
