"""Disks that refuse."""

import resource
from contextlib import contextmanager


@contextmanager
def files_of_at_most(size):
    """The disk refuses what would make a file longer than ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
