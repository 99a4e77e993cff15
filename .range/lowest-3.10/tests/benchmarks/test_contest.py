"""Contestants take turns in processes of their own."""

import json
import os
import sys
import time

import pytest

from benchmarks.contest import Contestant, Timing, contest, report

pytestmark = pytest.mark.usefixtures("importable")


@pytest.fixture
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


def sleeper(seconds):
    """Sleeps; gives the process's id and its place among ranks."""
    found = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")}

    def sleep():
        time.sleep(seconds)
        return os.getpid(), found

    return sleep


def test_ratios_are_those_within_a_round():
    fast, slow = Timing([1.0, 2.0, 4.0]), Timing([3.0, 4.0, 16.0])
    assert fast.times_faster_than(slow) == 3.0
    assert slow.seconds == 4.0


def test_the_faster_one_is_found_faster_and_ranks_know_their_places():
    slow, fast = Contestant("slow", sleeper, (0.05,)), Contestant("fast", sleeper, (0.01,), ranks=2)
    timings = contest([slow, fast], 3, 0.1)
    assert [len(timing.rounds) for timing in timings.values()] == [3, 3]
    assert timings["slow"].seconds >= 0.05
    assert timings["fast"].times_faster_than(timings["slow"]) > 1.5
    (one, alone), (two, first) = (timings[name].results[-1] for name in ("slow", "fast"))
    assert one != two != os.getpid()
    assert alone == {"RANK": None, "WORLD_SIZE": None, "LOCAL_WORLD_SIZE": "1"}
    assert first == {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}


def test_the_report_is_printed_and_written(tmp_path, capsys):
    path = tmp_path / "new" / "speed.json"
    report("speed", {"a table": [{"": "ours", "images/s": 12.345}]}, path)
    assert "12.35" in capsys.readouterr().out
    written = json.loads(path.read_text())
    assert written["a table"] == [{"": "ours", "images/s": 12.345}]
    assert written["machine"]["cores"] >= 1
