"""A disk that is full, and what lies on it afterwards."""

import subprocess

import pytest

from recording.checkpoint import newest_checkpoint
from tests.disks import small_disk
from tests.runs import STEPS, losses, steps_saved, train

pytestmark = pytest.mark.programs

ROOM = "26m"
"""For one checkpoint of a small run, and for most of the next."""


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", ROOM) as disk:
        yield disk


def test_a_full_disk_ends_a_run_and_hurts_no_checkpoint(disk, happened):
    status, _, err = train(2, disk)
    assert status == 2
    assert err.count("\n") == 1, err
    assert str(disk) in err
    assert "No space left on device" in err
    assert steps_saved(disk / "run") == [2]
    assert newest_checkpoint(disk / "run" / "checkpoints")[0].name == "step-00000002"
    happened("a disk that is full at the second checkpoint", "one sentence; the first is whole")


def test_a_read_only_disk_is_refused(disk, happened):
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    status, _, err = train(2, disk)
    assert status == 2
    assert err.count("\n") == 1, err
    assert str(disk) in err
    assert "Read-only file system" in err
    happened("a read-only disk", "one sentence")


def test_a_run_may_go_on_over_a_full_disk(disk, happened):
    status, out, err = train(2, disk, "write_errors=continue")
    assert status == 2
    assert out.count("No space left on device") == 2, "of steps 4 and 6"
    assert f"step-{STEPS:08d}" in err
    assert len(losses(disk / "run")) == STEPS
    assert steps_saved(disk / "run") == [2]
    happened("the same with write_errors=continue", "trained to the end; the first is whole")
