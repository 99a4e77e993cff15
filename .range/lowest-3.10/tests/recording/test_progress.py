"""The progress of a run, on a terminal and without one."""

import fcntl
import logging
import os
import pty
import select
import struct
import termios

import pytest

from recording.progress import Progress
from tests.recording.samples import evaluation_metrics, step_metrics

SPEED = {"step/images_per_second": 321.0}


class Screen:
    """Takes standard error: a file, or a terminal of 120 columns."""

    def __init__(self, monkeypatch, stderr, read):
        self.monkeypatch, self.stderr, self.read = monkeypatch, stderr, read

    def start(self, total, done=0):
        """Begin to show a run; pytest sets standard error anew for every test, hence only here."""
        with self.monkeypatch.context() as patch:
            patch.setattr("sys.stderr", self.stderr)
            return Progress(total, done)


@pytest.fixture
def plain(monkeypatch, tmp_path):
    path = tmp_path / "stderr"
    with path.open("w") as stderr:
        yield Screen(monkeypatch, stderr, path.read_text)


@pytest.fixture
def terminal(monkeypatch):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))

    def read():
        shown = b""
        while select.select([ours], [], [], 0.2)[0]:
            shown += os.read(ours, 4096)
        return shown.decode()

    with os.fdopen(theirs, "w") as stderr:
        yield Screen(monkeypatch, stderr, read)
    os.close(ours)


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, "recording.progress")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture
def clock(monkeypatch):
    """Seconds, which pass when a test says so."""
    now = [0.0]
    monkeypatch.setattr("recording.progress.time.monotonic", lambda: now[0])
    return now


def _steps(progress, first, last):
    for step in range(first, last + 1):
        progress.log(step, {"epoch": step / 4, **step_metrics(), **SPEED})


def test_without_a_terminal_the_first_step_is_told_at_once_and_the_next_ones_later(plain, said):
    _steps(plain.start(10), 1, 10)
    [line] = said()
    assert line == "step 1/10  epoch 0.25  loss 1.2500  321.0 images/s"


def test_without_a_terminal_a_line_is_told_at_intervals(plain, said, clock, monkeypatch):
    monkeypatch.setattr("recording.progress.PLAIN_EVERY", 25.0)
    progress = plain.start(20)
    for step in range(1, 9):
        clock[0] += 10.0
        _steps(progress, step, step)
    assert [line.split("  ")[0] for line in said()] == ["step 1/20", "step 4/20", "step 7/20"]
    assert [line.split("  ")[-1] for line in said()[1:]] == ["02:40 left", "02:10 left"]


def test_a_resumed_run_is_counted_on_and_timed_anew_without_its_first_step(plain, said, clock):
    clock[0] = 1000.0
    progress = plain.start(20, done=10)
    clock[0] += 99.0
    _steps(progress, 11, 11)
    clock[0] += 20.0
    _steps(progress, 12, 12)
    first, second = said()
    assert first.startswith("step 11/20")
    assert second.endswith("  02:40 left")


def test_without_a_terminal_there_is_no_bar(plain):
    progress = plain.start(10)
    _steps(progress, 1, 10)
    progress.close()
    assert plain.read() == ""


@pytest.mark.parametrize("where", ["plain", "terminal"])
def test_evaluations_are_told_everywhere(request, said, where):
    progress = request.getfixturevalue(where).start(10)
    progress.log(4, {"epoch": 1.0, **evaluation_metrics()})
    progress.close()
    assert said() == ["epoch 1.00  test loss 0.5000  top-1 0.7500  top-5 0.8750"]


def test_a_terminal_has_a_live_line(terminal, said):
    progress = terminal.start(10, done=3)
    _steps(progress, 4, 6)
    progress.close()
    last = terminal.read().rstrip().split("\r")[-1]
    assert "6/10" in last
    assert "epoch 1.50  loss 1.2500  321.0 images/s" in last
    assert said() == []
