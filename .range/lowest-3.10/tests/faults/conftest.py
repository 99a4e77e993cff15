"""Fixtures of the fault suite."""

import re

import pytest

from tests.data.packed.trees import make_tree, pack_tree

IN_WORDS = {
    "kill": "SIGKILL of",
    "segfault": "a segmentation fault in",
    "terminate": "SIGTERM to",
    "stop": "SIGSTOP of",
    "hang": "endless sleep of",
    "leave": "an early exit with status 0 of",
    "raise": "an exception in",
    "memory": "no memory left for",
}


@pytest.fixture
def happened(record_property):
    """Puts a row into the table of faults that the tests print: the fault, and what happened.

    A fault as ``injected.py`` takes it is put into words.
    """

    def words(match):
        kind, rank, step = match.groups()
        return f"{IN_WORDS[kind]} rank {rank} in step {step}" if kind in IN_WORDS else "no fault"

    def note(fault, outcome):
        record_property("fault", (re.sub(r"\b(\w+):(\d+):(\d+)", words, fault), outcome))

    return note


@pytest.fixture
def packed(tmp_path):
    """A folder of packed images."""
    return pack_tree(make_tree(tmp_path / "tree"), tmp_path / "packed")[0]
