"""Helpers for tests of hostile files."""

import struct
import time

import pytest

from common.errors import ReportedError

SOON = 20.0
"""Seconds within which a refusal must come, on a busy machine too."""


def refused(function, *arguments):
    """The one line with which ``function`` refuses, soon."""
    began = time.monotonic()
    with pytest.raises(ReportedError) as caught:
        function(*arguments)
    assert time.monotonic() - began < SOON
    message = str(caught.value)
    assert message.isprintable()
    return message


def npy(shape, descr="<f4"):
    """A file of no numbers whose header claims some."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header
