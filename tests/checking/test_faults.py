"""Lost ranks are reported as promised, and a launch that reports otherwise is found."""

import signal

import pytest

from checking import faults
from checking.faults import PROMISES, check_faults


def launch_that_says(status, said):
    return lambda number: (status, said)


@pytest.mark.programs
def test_a_killed_and_a_stopped_rank_are_named():
    assert [outcome.holds for outcome in check_faults()] == [True] * len(PROMISES)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (0, ""),
        (1, "error: lost the connection to another rank\n"),
        (128 + signal.SIGKILL, "rank 0 was ended by SIGKILL\n"),
        (None, "rank 1 was ended by SIGKILL\n"),
    ],
)
def test_a_launch_that_keeps_no_promise_is_found(monkeypatch, status, said):
    monkeypatch.setattr(faults, "launch_victim", launch_that_says(status, said))
    assert [outcome.holds for outcome in check_faults()] == [False] * len(PROMISES)
