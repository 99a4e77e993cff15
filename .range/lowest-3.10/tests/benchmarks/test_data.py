"""Both loaders of the benchmark give images, epoch after epoch."""

import pytest

from benchmarks import data


@pytest.mark.parametrize("loader", [data.ours, data.d2l])
def test_a_loader_reads_on(loader, monkeypatch):
    monkeypatch.setattr(data, "BATCHES", 3)
    monkeypatch.setattr(data, "WORKERS", 1)
    read = loader(64)
    assert len(read()) == data.BATCH
    assert len(read()) == data.BATCH
