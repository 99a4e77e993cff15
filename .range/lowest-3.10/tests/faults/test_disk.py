"""A disk that is full, and what lies on it afterwards."""

import contextlib
import os
import subprocess

import pytest

from recording.checkpoint import newest_checkpoint
from tests.runs import STEPS, losses, steps_saved, train

pytestmark = pytest.mark.programs

ROOM = "26m"
"""For one checkpoint of a small run, and for most of the next."""


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with little room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(disk)]
    with contextlib.suppress(FileNotFoundError):
        done = subprocess.run(mount, capture_output=True, text=True)
    if not os.path.ismount(disk):
        pytest.skip(f"cannot mount a small file system here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_ends_a_run_and_hurts_no_checkpoint(small_disk, happened):
    status, _, err = train(2, small_disk)
    assert status == 2
    assert err.count("\n") == 1, err
    assert str(small_disk) in err
    assert "No space left on device" in err
    assert steps_saved(small_disk / "run") == [2]
    assert newest_checkpoint(small_disk / "run" / "checkpoints")[0].name == "step-00000002"
    happened("a disk that is full at the second checkpoint", "one sentence; the first is whole")


def test_a_read_only_disk_is_refused(small_disk, happened):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    status, _, err = train(2, small_disk)
    assert status == 2
    assert err.count("\n") == 1, err
    assert str(small_disk) in err
    assert "Read-only file system" in err
    happened("a read-only disk", "one sentence")


def test_a_run_may_go_on_over_a_full_disk(small_disk, happened):
    status, out, err = train(2, small_disk, "write_errors=continue")
    assert status == 2
    assert out.count("No space left on device") == 2, "of steps 4 and 6"
    assert f"step-{STEPS:08d}" in err
    assert len(losses(small_disk / "run")) == STEPS
    assert steps_saved(small_disk / "run") == [2]
    happened("the same with write_errors=continue", "trained to the end; the first is whole")
