"""Fixtures of the fault suite."""

import pytest


@pytest.fixture
def happened(record_property):
    """Puts a row into the table of faults that the tests print: the fault, and what happened."""

    def note(fault, outcome):
        record_property("fault", (fault, outcome))

    return note
