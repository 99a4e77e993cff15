"""Every loader of the benchmark gives images, epoch after epoch."""

from pathlib import Path

import pytest

from benchmarks import packed
from data.packed.source import list_source
from data.packed.writer import prepare


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "PICTURES", 2)
        patch.setattr(packed, "IMAGES", 5)
        folder = packed.make_files(tmp_path_factory.mktemp("packed"))
    (folder / "packed").mkdir()
    prepare(list_source(folder / "images"), folder / "packed", size=256, shard_images=3, workers=1)
    return folder


def test_each_file_has_its_names(folder):
    files = list((folder / "images" / "train" / "any").iterdir())
    assert len(files) == 5
    assert len({path.stat().st_ino for path in files}) == 2


@pytest.mark.parametrize("loader", list(packed.contestants(Path())))
def test_a_loader_reads_on(loader, folder):
    contestant, _ = packed.contestants(folder)[loader]
    read = contestant.make(*contestant.arguments[:-2], 2, 2)
    for _ in range(2):
        assert 1 <= len(read()) <= 2
