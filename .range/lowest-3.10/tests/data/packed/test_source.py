"""The files that are packed, their order, and those that are missing."""

import os
import re

import pytest

from common.errors import ReportedError
from data.image_folder import ImageFolder
from data.packed.source import MISSING, list_source
from tests.data.packed.trees import make_tree, save_noise


def paths(source, split):
    return [each.path for each in source.splits[split]]


@pytest.fixture
def flat(tree):
    """A tree whose test images lie in one folder, and the list of their classes."""
    lines = ["ImageId,PredictionString"]
    for path in sorted((tree / "val").rglob("*.jpg")):
        path.rename(tree / "val" / f"{path.parent.name}-{path.name}")
        lines.append(f"{path.parent.name}-{path.stem},{path.parent.name} 1 2 3 4")
        if not list(path.parent.iterdir()):
            path.parent.rmdir()
    (tree / "labels.csv").write_text("\n".join(lines))
    return tree, tree / "labels.csv"


def test_the_images_are_those_of_an_image_folder(tree):
    source = list_source(tree)
    for split in ("train", "test"):
        found = sorted((str(tree / each.path), each.label) for each in source.splits[split])
        assert found == ImageFolder(split, tree, 1).samples
    assert source.classes == ["ant", "bee"]
    assert source.images == 14


def test_training_images_are_mixed_and_always_alike(tmp_path):
    source, again = (list_source(make_tree(tmp_path / name, 40)) for name in ("one", "other"))
    labels = [each.label for each in source.splits["train"]]
    assert all(5 <= sum(labels[first : first + 20]) <= 15 for first in range(0, 80, 20))
    assert paths(source, "train") == paths(again, "train")
    assert source.digest == again.digest
    assert paths(source, "test") == sorted(paths(source, "test"))


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: (tree / "train/ant/0.jpg").unlink(),
        lambda tree: (tree / "train/ant/0.jpg").rename(tree / "train/bee/x.jpg"),
        lambda tree: (tree / "val/ant/v0.jpg").write_bytes(b"other"),
        lambda tree: save_noise(tree / "val/bee/new.jpg", 1),
    ],
    ids=["removed", "moved", "another length", "added"],
)
def test_another_listing_has_another_digest(tree, change):
    before = list_source(tree).digest
    change(tree)
    assert list_source(tree).digest != before


def test_a_flat_folder_with_a_list_is_the_same_as_class_folders(flat):
    tree, labels = flat
    source = list_source(tree, labels)
    assert [(each.path, each.label) for each in source.splits["test"]] == [
        ("val/ant-v0.jpg", 0),
        ("val/ant-v1.jpg", 0),
        ("val/bee-v0.jpg", 1),
        ("val/bee-v1.jpg", 1),
    ]


def test_a_flat_folder_without_a_list_is_refused_with_the_option(flat):
    with pytest.raises(ReportedError, match="--val-labels"):
        list_source(flat[0])


def test_a_list_without_its_folder_is_refused(flat):
    tree, labels = flat
    (tree / "val").rename(tree / "elsewhere")
    with pytest.raises(ReportedError, match=re.escape(str(tree / "val"))):
        list_source(tree, labels)


def test_images_without_a_class_are_refused(flat):
    tree, labels = flat
    save_noise(tree / "val" / "cat.jpg", 1)
    with pytest.raises(ReportedError, match=r" 1 of .* cat\.jpg"):
        list_source(tree, labels)


def test_images_that_the_list_names_and_nobody_has_are_refused(flat):
    tree, labels = flat
    (tree / "val" / "bee-v1.jpg").unlink()
    with pytest.raises(ReportedError, match=r" 1 of .* bee-v1\b"):
        list_source(tree, labels)


def test_a_link_that_leads_nowhere_is_listed(tree):
    (tree / "train/ant/gone.jpg").symlink_to(tree / "nowhere")
    lengths = {each.path: each.bytes for each in list_source(tree).splits["train"]}
    assert lengths["train/ant/gone.jpg"] == MISSING
    assert lengths["train/ant/0.jpg"] == (tree / "train/ant/0.jpg").stat().st_size


def test_a_pipe_is_refused(tree):
    os.mkfifo(tree / "train/ant/pipe.jpg")
    with pytest.raises(ReportedError, match=r"pipe\.jpg"):
        list_source(tree)


def test_names_that_are_no_text_have_a_digest(tree):
    (tree / "train/ant/0.jpg").rename(os.fsdecode(os.fsencode(tree / "train/ant") + b"/\xff.jpg"))
    assert len(list_source(tree).digest) == 64
