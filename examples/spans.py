"""The parts of a step on a rank, and its messages under way meanwhile."""

import json
import tempfile
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from torch.profiler import ProfilerActivity, profile, record_function

from distributed.timer import StepMarks
from training.batches import LocalBatch
from training.trainer import Trainer

WAITING = ("activation_communication", "gradient_communication")
Events = list[dict[str, Any]]


class Span(NamedTuple):
    """Something from ``start`` to ``end``, in ms from the step's begin."""

    name: str
    start: float
    end: float


class Step(NamedTuple):
    """The parts of a step on a rank, and its messages: collectives from start to end."""

    parts: Sequence[Span]
    messages: Sequence[Span]

    @property
    def exposed(self) -> list[Span]:
        """The messages as far as the rank waits while they are under way."""
        waits = [span for span in self.parts if span.name in WAITING]
        pairs = [
            Span(sent.name, max(sent.start, wait.start), min(sent.end, wait.end))
            for sent in self.messages
            for wait in waits
        ]
        return [span for span in pairs if span.end > span.start]


def covered(spans: Iterable[Span]) -> float:
    """Milliseconds in at least one of the spans."""
    total, until = 0.0, 0.0
    for _, start, end in sorted(spans, key=lambda span: span.start):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def record(trainer: Trainer, batch: LocalBatch) -> tuple[Step, Events]:
    """Take a step on a CPU; also returns the profiler's events, as in Chrome's traces."""
    trainer.mesh.timer.take()
    trainer.mesh.largest(0.0)  # so that the ranks begin together
    with profile(activities=[ProfilerActivity.CPU]) as profiler, record_function("step"):
        began = time.perf_counter()
        launched = trainer.train_step(batch)
        launched.result()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    return Step(_parts(launched.marks, began), _messages(events)), events


def _parts(marks: StepMarks, began: float) -> list[Span]:
    spans = pairwise(marks.marks)
    times = [(name, 1e3 * (a - began), 1e3 * (b - began)) for (name, a), (_, b) in spans]  # type: ignore[operator]  # on a CPU marks are seconds
    return [Span(*each) for each in times if each[0]]  # type: ignore[arg-type]


def _messages(events: Events) -> list[Span]:
    begin = next(event["ts"] for event in events if event.get("name") == "step")
    found = [event for event in events if str(event.get("name")).startswith("gloo:")]
    starts = [(event, (event["ts"] - begin) / 1e3) for event in found]
    return [Span(event["name"], start, start + event["dur"] / 1e3) for event, start in starts]
