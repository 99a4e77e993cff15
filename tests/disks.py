"""Disks that refuse."""

import os
import resource
import subprocess
from contextlib import contextmanager, suppress

import pytest


@contextmanager
def files_of_at_most(size):
    """The disk refuses what would make a file longer than ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def small_disk(folder, room):
    """A file system of its own in a new folder, with little room; skips the test without one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(folder)]
    with suppress(FileNotFoundError):
        done = subprocess.run(mount, capture_output=True, text=True)
    if not os.path.ismount(folder):
        pytest.skip(f"cannot mount a small file system here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def full(disk):
    """No byte is left on ``disk``."""
    filler = disk / "filler"
    try:
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(1 << 20)):
                pass
        yield
    finally:
        filler.unlink(missing_ok=True)
