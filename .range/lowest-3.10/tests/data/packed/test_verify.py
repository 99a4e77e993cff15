"""Files that were altered after they were written are found."""

import pytest

from common.errors import ReportedError
from data.packed.verify import verify
from tests.data.packed.trees import SHARD


def test_what_was_just_written_is_whole(packed):
    shards = -(-10 // SHARD) + 1
    assert verify(packed, workers=2) == shards + 3


@pytest.mark.parametrize(
    "name", ["train-00001.npy", "test-00000.npy", "train-labels.npy", "mean-image.npy"]
)
@pytest.mark.parametrize("how", ["altered", "gone"])
def test_a_file_that_is_not_as_written_is_named(packed, name, how):
    content = bytearray((packed / name).read_bytes())
    content[-1] ^= 1
    (packed / name).write_bytes(content)
    if how == "gone":
        (packed / name).unlink()
    with pytest.raises(ReportedError, match=rf"^1 of the 7 .*\b{name}\b"):
        verify(packed, workers=2)


def test_of_many_only_some_are_named(packed):
    for path in packed.glob("*.npy"):
        path.unlink()
    with pytest.raises(ReportedError, match=r"^7 of the 7 .*, …"):
        verify(packed, workers=2)


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(ReportedError, match=r"index\.json"):
        verify(tmp_path, workers=2)
