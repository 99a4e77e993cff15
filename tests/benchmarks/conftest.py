"""Tables of speeds, written for a test."""

import pytest

from benchmarks.speeds import COLUMNS

HEADER = ",".join(COLUMNS)


@pytest.fixture
def table(tmp_path):
    """Write rows below a header; returns the file's path."""

    def write(*rows, header=HEADER):
        path = tmp_path / "rows.csv"
        path.write_text("\n".join([header, *rows]) + "\n")
        return path

    return write


@pytest.fixture
def row():
    """Make a row of a table."""

    def make(devices, speed, precision="fp32", batch=128, system="any"):
        return f"a page,{system},{precision},{batch},{devices},{speed}"

    return make
