"""Threads: those that somebody chose, or a share of the cores."""

import pytest

from common.errors import ReportedError
from launch import threads
from launch.threads import share_of_cores
from launch.world import LAUNCHER


@pytest.fixture
def environment(monkeypatch):
    """Sets OMP_NUM_THREADS, on eight cores, as no launcher's rank."""
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(8)))
    for name in ("OMP_NUM_THREADS", "RANK", LAUNCHER):
        monkeypatch.delenv(name, raising=False)

    def write(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return write


@pytest.mark.parametrize(
    ("chosen", "processes", "expected"),
    [("", 2, 4), ("1", 2, 1), ("3", 2, 3), ("3,2", 2, 3), ("", 3, 2), ("", 16, 1), ("12", 1, 12)],
)
def test_cores_are_shared_out_unless_threads_were_chosen(environment, chosen, processes, expected):
    environment(OMP_NUM_THREADS=chosen)
    assert share_of_cores(processes) == expected


def test_the_one_that_torchrun_sets_is_not_chosen(environment):
    environment(OMP_NUM_THREADS="1", RANK="0")
    assert share_of_cores(2) == 4
    environment(**{LAUNCHER: "123"})
    assert share_of_cores(2) == 1


@pytest.mark.parametrize("chosen", ["0", "-1", "99999", "2.5", "many"])
def test_what_is_no_number_of_threads_is_refused(environment, chosen):
    environment(OMP_NUM_THREADS=chosen)
    with pytest.raises(ReportedError, match="OMP_NUM_THREADS"):
        share_of_cores(2)
