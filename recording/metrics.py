"""Reads and writes ``metrics.jsonl``: one JSON object a line for each step and evaluation."""

import errno
import json
import logging
import os
from pathlib import Path
from statistics import median
from typing import Any

from common.errors import ReportedError
from common.files import read_objects, replacing, writing
from distributed.timer import StepCost

log = logging.getLogger(__name__)


class MetricsFile:
    """Appends to ``metrics.jsonl``; a resumed run first drops the steps after ``step``.

    With ``go_on``, lines that the disk refuses wait in memory until it accepts them.
    """

    def __init__(self, path: Path, step: int, *, go_on: bool = False) -> None:
        self.path, self.go_on = path, go_on
        self.unwritten: list[str] = []
        kept = [line for line in read_metrics(path) if line["step"] <= step]
        with replacing(path) as aside:
            aside.write_text("".join(json.dumps(line) + "\n" for line in kept))
        with writing(path):
            self.file = path.open("ab", buffering=0)

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Write one line; raises ReportedError if the disk refuses it, unless the run may go on."""
        was_refused = bool(self.unwritten)
        self.unwritten.append(json.dumps({"step": step, **metrics}) + "\n")
        try:
            self._append("".join(self.unwritten).encode())
            self.unwritten.clear()
        except ReportedError as error:
            if not self.go_on:
                raise
            if not was_refused:
                log.warning("%s; training goes on, and metrics wait in memory", error)

    def _append(self, text: bytes) -> None:
        """Append all of the text or none of it."""
        with writing(self.path):
            end = os.fstat(self.file.fileno()).st_size
            try:
                if self.file.write(text) < len(text):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                self.file.truncate(end)
                raise


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; raises ReportedError as ``read_objects`` does."""
    return [line for line in read_objects(path) if isinstance(line.get("step"), int)]


def step_speed(lines: list[dict[str, Any]]) -> dict[str, float]:
    """The median training step among the lines of a metrics file, as flat keys; {} without steps.

    ``images_per_second`` and the fields of ``StepCost``.
    """
    steps = [line for line in lines if "step/bytes_sent" in line]
    if not steps:
        return {}
    cost = StepCost.median([StepCost.read(line, "step/") for line in steps])
    speed = median(line["step/images_per_second"] for line in steps)
    return {"images_per_second": speed, **cost.flat()}
