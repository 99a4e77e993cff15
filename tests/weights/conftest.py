"""Nets with few hidden units, which are made, written and read in no time."""

import dataclasses
import shutil

import pytest

from model.variants import VARIANTS


@pytest.fixture
def small_nets(monkeypatch):
    for name, variant in VARIANTS.items():
        monkeypatch.setitem(VARIANTS, name, dataclasses.replace(variant, hidden=32))


@pytest.fixture
def tmp_path(tmp_path):
    """Emptied at once: weights are large."""
    yield tmp_path
    shutil.rmtree(tmp_path)
