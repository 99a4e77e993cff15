"""Packed images: the very pixels of the files, at any position, and nothing hostile is followed."""

import gc
import os
import re

import numpy as np
import pytest
import torch

from common.errors import ReportedError
from data.datasets import open_dataset
from data.loading import Loader
from data.packed import reader as packed_module
from data.packed.reader import Packed
from tests.data.packed.trees import (
    SIZE,
    add_odd_files,
    change_index,
    expected,
    make_tree,
    pack_tree,
)
from training.config import DataConfig


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return add_odd_files(make_tree(tmp_path_factory.mktemp("images") / "tree"))


@pytest.fixture
def folder(tree, tmp_path):
    return pack_tree(tree, tmp_path / "packed", workers=1)[0]


@pytest.fixture
def refused(folder):
    """The complaint of opening the folder."""

    def message(split="train"):
        with pytest.raises(ReportedError) as caught:
            Packed(split, folder)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return message


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_pixels_are_those_of_an_image_folder(tree, folder, split):
    dataset = open_dataset("packed", split, folder)
    images, labels = dataset.read(torch.arange(len(dataset)))
    wanted, wanted_labels = expected(tree, split)
    assert images.shape == (len(wanted), 3, SIZE, SIZE)
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1), wanted)
    assert labels.tolist() == wanted_labels
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert (dataset.height, dataset.width, dataset.channels) == (SIZE, SIZE, 3)
    assert dataset.classes == ["ant", "bee"]


def test_a_configuration_must_say_their_size(folder):
    assert DataConfig(name="packed", folder=folder, stored_size=SIZE).open("test").height == SIZE
    with pytest.raises(ReportedError, match=f"data.stored_size={SIZE}"):
        DataConfig(name="packed", folder=folder, stored_size=SIZE + 1).open("test")


@pytest.mark.parametrize("positions", [[14, 0, 7, 7, 3, 4], [5], []])
@pytest.mark.parametrize("most_open", [1, 64])
def test_images_are_read_by_their_positions(folder, monkeypatch, positions, most_open):
    monkeypatch.setattr(packed_module, "MOST_OPEN", most_open)
    dataset = Packed("train", folder)
    all_images, all_labels = dataset.read(torch.arange(len(dataset)))
    indices = torch.tensor(positions, dtype=torch.int64)
    images, labels = dataset.read(indices)
    assert torch.equal(images, all_images[indices])
    assert torch.equal(labels, all_labels[indices])
    assert len(dataset._open) <= most_open


def test_files_are_closed_with_the_set(folder):
    gc.collect()  # which closes what other tests left
    before = len(os.listdir("/proc/self/fd"))
    dataset = Packed("train", folder)
    dataset.read(torch.arange(len(dataset)))
    assert len(os.listdir("/proc/self/fd")) > before
    del dataset
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_workers_read_the_same(folder):
    dataset = Packed("train", folder)
    batches = list(torch.arange(len(dataset)).flip(0).split(4))
    for one, other in zip(Loader(dataset, batches), Loader(dataset, batches, 2), strict=True):
        assert all(map(torch.equal, one, other))


def test_a_folder_without_an_index_is_refused(tree):
    with pytest.raises(ReportedError, match=re.escape(str(tree / "index.json"))):
        Packed("train", tree)


def set_file(name):
    return lambda index: index["splits"]["train"]["shards"][0].update(file=name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        *(
            (set_file(name), "splits.train.shards.0.file")
            for name in (
                *("../x.npy", "/etc/x.npy", "a/x.npy", "a\\x.npy", "..", ".hidden.npy", "x.npy\n"),
                *("", "x.npz", "x.npy\0.npy", "~x.npy", 7, None),
            )
        ),
        (lambda index: index["splits"]["test"]["labels"].update(file="../l.npy"), "test.labels"),
        (lambda index: index["statistics"]["mean_image"].update(file="/m.npy"), "mean_image.file"),
        (lambda index: index["plan"].update(format=2), "plan.format"),
        (lambda index: index["plan"].update(size=0), "plan.size"),
        (lambda index: index["plan"].update(size="16"), "plan.size"),
        (lambda index: index.update(extra=1), "extra"),
        (lambda index: index.pop("classes"), "classes"),
        (lambda index: index.update(classes=[]), "classes"),
        (lambda index: index.update(classes=["ant", "ant"]), "classes"),
        (lambda index: index["splits"].pop("test"), "splits.test"),
        (lambda index: index["splits"]["train"].update(images=14), "15 images, not 14"),
        (lambda index: index["splits"]["train"]["shards"].pop(), "images, not 15"),
        (lambda index: index["splits"]["train"]["shards"][0].update(images=-4), "shards.0.images"),
        (lambda index: index["splits"]["train"]["shards"][0].update(sha256="x"), "sha256"),
    ],
)
def test_an_index_that_cannot_be_meant_is_refused(folder, refused, change, words):
    change_index(folder, change)
    assert words in refused()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff"])
def test_what_is_no_index_is_refused(folder, refused, text):
    (folder / "index.json").write_text(text, encoding="latin-1")
    assert str(folder / "index.json") in refused()


def rewrite(path, array, **options):
    with path.open("wb") as file:
        np.save(file, array, **options)


def zipped(path, array):
    with path.open("wb") as file:
        np.savez(file, array)


@pytest.mark.parametrize("name", ["train-00001.npy", "train-labels.npy"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not an array" * 100),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:90]),
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
        lambda path: rewrite(path, np.load(path)[:-1]),
        lambda path: rewrite(path, np.load(path).astype(np.int16)),
        lambda path: rewrite(path, np.asfortranarray(np.load(path)[None])),
        lambda path: rewrite(path, np.array([{}], object), allow_pickle=True),
        lambda path: zipped(path, np.load(path)),
    ],
    ids=[
        *("gone", "empty", "text", "cut", "header-cut", "longer"),
        *("fewer", "other-type", "other-shape", "pickled", "zip"),
    ],
)
def test_a_file_of_another_form_is_refused(folder, refused, name, spoil):
    spoil(folder / name)
    assert str(folder / name) in refused()


def test_an_array_in_another_order_is_refused(folder, refused):
    path = folder / "train-00000.npy"
    rewrite(path, np.asfortranarray(np.load(path)))
    assert "train-00000.npy" in refused()


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_without_a_class_are_refused(folder, refused, label):
    labels = np.load(folder / "train-labels.npy")
    labels[3] = label
    rewrite(folder / "train-labels.npy", labels)
    message = refused()
    assert str(folder / "train-labels.npy") in message
    assert "2 classes" in message


def test_a_file_that_shrinks_while_it_is_read_is_an_error_and_no_dead_process(folder):
    dataset = Packed("train", folder)
    dataset.read(torch.arange(2))
    os.truncate(folder / "train-00000.npy", 200)
    with pytest.raises(ReportedError, match=r"train-00000\.npy"):
        dataset.read(torch.arange(2))


def test_a_file_that_vanished_is_an_error(folder):
    dataset = Packed("train", folder)
    (folder / "train-00000.npy").unlink()
    with pytest.raises(ReportedError, match=r"train-00000\.npy .*No such file"):
        dataset.read(torch.arange(2))


def test_a_failing_disk_is_an_error(folder, monkeypatch):
    def fail(*arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(ReportedError, match="Input/output error"):
        Packed("train", folder).read(torch.arange(2))


def test_a_read_that_gives_only_a_part_is_gone_on_with(folder, monkeypatch):
    dataset, whole = Packed("train", folder), os.preadv
    wanted = dataset.read(torch.arange(6))[0]
    monkeypatch.setattr(
        os, "preadv", lambda handle, views, offset: whole(handle, [views[0][:100]], offset)
    )
    assert torch.equal(dataset.read(torch.arange(6))[0], wanted)
