"""A whole folder: the same bytes however it came about, and nothing but those."""

import re
import shutil

import numpy as np
import pytest

from common.errors import ReportedError
from data.packed import writer as writer_module
from data.packed.index import INDEX, UNFINISHED, read_index
from data.packed.shards import pack
from data.packed.source import list_source
from data.packed.writer import PLAN, prepare
from tests.data.packed.trees import (
    BROKEN,
    SHARD,
    SIZE,
    change_index,
    contents,
    expected,
    make_tree,
    pack_tree,
    save_noise,
)


@pytest.fixture
def begin(monkeypatch):
    """Calls a function that packs, and interrupts it after some shards."""

    def packing(shards, function, *arguments):
        def some(tasks, workers):
            for task in tasks[:shards]:
                pack(task)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(writer_module, "finish_all", some)
            with pytest.raises(KeyboardInterrupt):
                function(*arguments)

    return packing


def test_a_folder_holds_what_its_index_names_and_nothing_else(odd_tree, tmp_path):
    target, index = pack_tree(odd_tree, tmp_path / "packed")
    assert read_index(target) == index
    assert {path.name for path in target.iterdir()} == {
        INDEX,
        *(each.file for each in index.files),
    }
    for split in ("train", "test"):
        images, labels = expected(odd_tree, split)
        shards = [np.load(target / shard.file) for shard in index.splits[split].shards]
        np.testing.assert_array_equal(np.concatenate(shards), images)
        assert np.load(target / index.splits[split].labels.file).tolist() == labels
        assert all(len(shard) <= SHARD for shard in shards)


def test_the_index_counts_and_names_what_was_odd(odd_tree, tmp_path):
    _, index = pack_tree(odd_tree, tmp_path / "packed")
    train, test = index.splits.train, index.splits.test
    assert (train.images, train.grey, train.cmyk, len(train.skipped)) == (15, 1, 1, len(BROKEN))
    assert (test.images, test.grey, test.cmyk, test.skipped) == (4, 0, 0, [])
    assert index.classes == ["ant", "bee"]


def test_the_statistics_are_numpy_s_of_the_training_images(odd_tree, tmp_path):
    target, index = pack_tree(odd_tree, tmp_path / "packed")
    images = expected(odd_tree, "train")[0].astype(np.float64)
    pixels, found = images.reshape(-1, 3), index.statistics
    np.testing.assert_allclose(found.mean, pixels.mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.covariance, np.cov(pixels.T, bias=True), rtol=1e-11)
    mean_image = np.load(target / found.mean_image.file)
    assert (mean_image.shape, mean_image.dtype) == ((SIZE, SIZE, 3), np.float32)
    np.testing.assert_array_equal(mean_image, images.mean(0).astype(np.float32))


def test_statistics_do_not_depend_on_the_shards(odd_tree, tmp_path):
    few, many = (
        pack_tree(odd_tree, tmp_path / str(shard), shard_images=shard)[1].statistics
        for shard in (1, 1000)
    )
    assert few == many


@pytest.mark.parametrize("shards", [0, 1, 3, 5])
def test_going_on_gives_the_same_bytes(odd_tree, tmp_path, begin, shards):
    whole, _ = pack_tree(odd_tree, tmp_path / "whole")
    begin(shards, pack_tree, odd_tree, tmp_path / "halved")
    halved = tmp_path / "halved"
    (halved / UNFINISHED / ".train-00002.part.npy").write_bytes(b"of a killed worker")
    with pytest.raises(ReportedError, match=rf"{halved} .*prepare\.py"):
        read_index(halved)
    pack_tree(odd_tree, halved, workers=1)
    assert contents(halved) == contents(whole)


def test_finished_shards_are_not_decoded_again(tree, tmp_path, begin):
    begin(2, pack_tree, tree, tmp_path / "packed")
    source = list_source(tree)
    for each in source.splits["train"][: 2 * SHARD]:
        path = tree / each.path
        path.write_bytes(b"x" * path.stat().st_size)
    _, index = pack_tree(tree, tmp_path / "packed")
    assert index.splits.train.skipped == []


def test_a_damaged_shard_is_made_again(tree, tmp_path, begin):
    whole, _ = pack_tree(tree, tmp_path / "whole")
    begin(2, pack_tree, tree, tmp_path / "halved")
    path = tmp_path / "halved" / "train-00001.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    pack_tree(tree, tmp_path / "halved")
    assert contents(tmp_path / "halved") == contents(whole)


def test_a_finished_folder_is_left_as_it_is(tree, packed):
    before = contents(packed)
    (packed / UNFINISHED).mkdir()  # left where the end came between the index and this
    pack_tree(tree, packed)
    assert contents(packed) == before
    assert not (packed / UNFINISHED).exists()


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("settings", "named"),
    [({"size": 8}, r"--size 16\b.* 8\b"), ({"shard_images": 9}, r"--shard-images 4\b.* 9\b")],
)
def test_other_settings_are_refused(tree, tmp_path, begin, finished, settings, named):
    target = tmp_path / "packed"
    if finished:
        pack_tree(tree, target)
    else:
        begin(1, pack_tree, tree, target)
    before = contents(target)
    with pytest.raises(ReportedError, match=named):
        pack_tree(tree, target, **settings)
    assert contents(target) == before


@pytest.mark.parametrize("finished", [True, False])
def test_other_files_are_refused(tree, tmp_path, begin, finished):
    target = tmp_path / "packed"
    if finished:
        pack_tree(tree, target)
    else:
        begin(1, pack_tree, tree, target)
    save_noise(tree / "train/bee/new.jpg", 1)
    with pytest.raises(ReportedError, match=re.escape(str(target))):
        pack_tree(tree, target)


def test_a_folder_of_something_else_is_refused(tree, tmp_path):
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "thesis.tex").touch()
    with pytest.raises(ReportedError, match=r"thesis\.tex"):
        pack_tree(tree, tmp_path / "packed")


def test_a_damaged_plan_is_refused(tree, tmp_path, begin):
    begin(1, pack_tree, tree, tmp_path / "packed")
    (tmp_path / "packed" / PLAN).write_text("{")
    with pytest.raises(ReportedError, match=PLAN):
        pack_tree(tree, tmp_path / "packed")


def test_a_damaged_index_is_refused(tree, packed):
    change_index(packed, lambda index: index.pop("classes"))
    with pytest.raises(ReportedError, match=re.escape(str(packed / INDEX))):
        pack_tree(tree, packed)


def test_too_small_a_disk_is_refused_before_it_is_full(tree, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=14 * SIZE * SIZE * 3 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ReportedError, match=re.escape(str(tmp_path / "packed"))):
        pack_tree(tree, tmp_path / "packed")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=usage.free + 1))
    pack_tree(tree, tmp_path / "packed")


def test_a_split_without_a_single_image_is_refused(tmp_path):
    tree = make_tree(tmp_path / "tree")
    for path in (tree / "val").rglob("*.jpg"):
        path.write_text("no picture")
    target = tmp_path / "packed"
    target.mkdir()
    with pytest.raises(ReportedError, match=re.escape(str(tree))):
        prepare(list_source(tree), target, size=SIZE, shard_images=SHARD, workers=1)
    assert not (target / INDEX).exists()
