"""One shard: odd files are converted, broken ones named, and a failing disk leaves nothing."""

import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import ReportedError
from data.packed.index import UNFINISHED
from data.packed.shards import Task, finished, pack
from data.packed.source import list_source
from tests.data.packed.trees import BROKEN, SIZE, contents, expected, save_noise


@pytest.fixture
def task(odd_tree, tmp_path):
    return make_task(odd_tree, tmp_path)


def make_task(tree, tmp_path):
    target = tmp_path / "target"
    (target / UNFINISHED).mkdir(parents=True, exist_ok=True)
    files = list_source(tree).splits["train"]
    return Task("train", 0, tree, files, target, SIZE)


def test_a_shard_is_a_mappable_array_of_what_image_folder_decodes(task):
    record = pack(task)
    images, labels = expected(task.source, "train")
    stored = np.load(task.target / task.shard, mmap_mode="r", allow_pickle=False)
    assert isinstance(stored, np.memmap)
    assert stored.flags.c_contiguous
    np.testing.assert_array_equal(stored, images)
    assert (task.target / task.shard).stat().st_size == 128 + images.nbytes
    assert (record.images, record.labels) == (len(images), labels)
    np.testing.assert_array_equal(np.load(task.target / task.sums), images.astype(np.int64).sum(0))


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "I;16B", "I", "F"])
def test_every_mode_without_color_is_counted_as_grey(tree, tmp_path, mode):
    Image.new(mode, (9, 9), 1).save(tree / "train" / "ant" / "deep.tif")
    assert pack(make_task(tree, tmp_path)).grey == 1


def test_odd_files_are_counted_and_broken_ones_named(task):
    record = pack(task)
    assert (record.grey, record.cmyk) == (1, 1)
    assert sorted(each.file for each in record.skipped) == [f"train/ant/{name}" for name in BROKEN]
    for each in record.skipped:
        assert str(task.source) not in each.reason
        assert "\n" not in each.reason
    assert record.images + len(record.skipped) == len(task.files)


def test_a_bomb_is_skipped_with_the_reason(tree, tmp_path, monkeypatch):
    save_noise(tree / "train/ant/bomb.png", 1, width=100, height=100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    (skipped,) = pack(make_task(tree, tmp_path)).skipped
    assert skipped.file == "train/ant/bomb.png"
    assert "10000 " in skipped.reason
    assert "5000" in skipped.reason


def test_a_link_that_leads_nowhere_is_skipped(tree, tmp_path):
    (tree / "train/ant/gone.jpg").symlink_to(tree / "nowhere")
    (skipped,) = pack(make_task(tree, tmp_path)).skipped
    assert "No such file" in skipped.reason


def test_a_name_that_is_no_text_is_written_with_escapes(tree, tmp_path):
    Path(os.fsdecode(os.fsencode(tree / "train/ant") + b"/\xff.jpg")).write_text("no picture")
    task = make_task(tree, tmp_path)
    record = pack(task)
    assert finished(task) == record
    assert record.skipped[0].file == "train/ant/\\udcff.jpg"


def test_a_shard_of_nothing_but_broken_files_is_no_file(task):
    files = [each for each in task.files if Path(each.path).name in BROKEN]
    task = Task(**{**task.__dict__, "files": files})
    record = pack(task)
    assert (record.images, record.sha256) == (0, None)
    assert not (task.target / task.shard).exists()
    assert finished(task) == record


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOMEM, None])
def test_what_the_system_did_not_hand_out_is_no_broken_image(task, monkeypatch, number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number)) if number else MemoryError

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(ReportedError, match=re.escape(task.files[0].path)):
        pack(task)
    assert contents(task.target) == {}


def test_a_file_that_vanished_is_no_broken_image(task):
    (task.source / task.files[0].path).unlink()
    with pytest.raises(ReportedError, match=re.escape(task.files[0].path)):
        pack(task)


def test_a_finished_shard_is_finished(task):
    assert finished(task) is None
    record = pack(task)
    assert finished(task) == record


@pytest.mark.parametrize("which", ["shard", "sums", "record"])
@pytest.mark.parametrize("how", ["altered", "cut", "gone"])
def test_a_shard_that_is_not_whole_is_made_again(task, which, how):
    record, before = pack(task), contents(task.target)
    path = task.target / getattr(task, which)
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(content if how == "altered" else content[:-20])
    found = finished(task)
    assert found is None or (which, how) == ("record", "altered")  # where its text may still parse
    assert pack(task) == record
    assert contents(task.target) == before
