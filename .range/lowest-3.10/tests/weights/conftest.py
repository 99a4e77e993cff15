"""Large files are removed at once."""

import shutil

import pytest


@pytest.fixture
def tmp_path(tmp_path):
    """Emptied at once: weights are large."""
    yield tmp_path
    shutil.rmtree(tmp_path)
