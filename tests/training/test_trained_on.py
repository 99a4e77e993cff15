"""A run knows what it is trained on: the same data are known again, and other data are named."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from common.errors import ReportedError
from data.packed.source import list_source
from data.packed.writer import prepare
from tests.data.conftest import save_picture
from training.config import DataConfig
from training.trained_on import check_same_data, describe_data


def describe(name="image_folder", **settings):
    """The state of a run on the data of ``settings``."""
    data = DataConfig(name=name, **{"stored_size": 24, **settings})
    sets = [data.open("train"), data.open("test")]
    description = describe_data(data, *sets)
    return {"classes": list(sets[0].classes), "data": {**description, "total_steps": 10}}


@pytest.fixture
def pictures(tmp_path):
    """Three training pictures and a test picture of each of two classes, all of one size."""
    for name in ("ant", "bee"):
        for number in range(3):
            save_picture(tmp_path / "one" / "train" / name / f"{number}.png")
        save_picture(tmp_path / "one" / "test" / name / "9.png")
    return tmp_path / "one"


@pytest.fixture
def refused(tmp_path):
    def refused(saved, now):
        with pytest.raises(ReportedError) as caught:
            check_same_data(tmp_path / "run", saved, now)
        message = str(caught.value)
        assert message.isprintable()
        assert f"weights={tmp_path / 'run'}" in message
        return message

    return refused


def check_same(saved, now):
    check_same_data(Path("run"), saved, now)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda root: (root / "train/ant/1.png").unlink(), "6 training images and are 5"),
        (lambda root: save_picture(root / "train/bee/7.png"), "6 training images and are 7"),
        (lambda root: (root / "train/ant/1.png").rename(root / "train/ant/4.png"), "as many train"),
        (lambda root: (root / "train/ant/1.png").rename(root / "train/bee/4.png"), "as many train"),
        (lambda root: save_picture(root / "train/ant/1.png", size=(90, 80)), "as many training"),
        (lambda root: save_picture(root / "test/bee/7.png"), "2 test images and are 3"),
        (lambda root: save_picture(root / "test/bee/9.png", size=(90, 80)), "as many test"),
    ],
    ids=["removed", "added", "renamed", "other class", "other length", "other test", "test length"],
)
def test_other_images_are_told(pictures, refused, change, named):
    before = describe(folder=pictures)
    change(pictures)
    assert named in refused(before, describe(folder=pictures))


def test_a_renamed_class_is_named(pictures, refused):
    before = describe(folder=pictures)
    for split in ("train", "test"):
        (pictures / split / "ant").rename(pictures / split / "wasp")
    message = refused(before, describe(folder=pictures))
    assert "ant is gone and wasp is new;" in message


def test_a_folder_that_moved_is_the_same(pictures, tmp_path):
    before = describe(folder=pictures)
    (tmp_path / "elsewhere").mkdir()
    pictures.rename(tmp_path / "elsewhere" / "two")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "two")
    (tmp_path / "link" / "train" / "ant" / "._0.png").write_bytes(b"no picture")
    for place in (tmp_path / "elsewhere" / "two", tmp_path / "link"):
        check_same(before, describe(folder=place))


@pytest.fixture
def packed(pictures, tmp_path):
    def pack(name, size=24):
        (tmp_path / name).mkdir()
        source = list_source(pictures)
        prepare(source, tmp_path / name, size=size, shard_images=4, workers=1)
        return tmp_path / name

    return pack


def test_a_packed_folder_that_was_made_again_is_the_same(packed, tmp_path):
    before = describe("packed", folder=packed("a"))
    check_same(before, describe("packed", folder=packed("b")))
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    check_same(before, describe("packed", folder=tmp_path / "c"))


def test_a_packed_folder_of_other_images_is_another(pictures, packed, refused):
    before = describe("packed", folder=packed("a"))
    save_picture(pictures / "train/ant/1.png", "black")
    assert "as many training" in refused(before, describe("packed", folder=packed("b")))
    save_picture(pictures / "train/ant/1.png")
    save_picture(pictures / "test/ant/9.png", "black")
    assert "as many test" in refused(before, describe("packed", folder=packed("c")))


def test_packed_images_of_another_size_are_others(packed, refused):
    before = describe("packed", folder=packed("a"))
    assert "as many training" in refused(
        before, describe("packed", folder=packed("b", 32), stored_size=32)
    )


def test_classes_in_another_order_are_told(pictures, refused):
    before = describe(folder=pictures)
    now = {**before, "classes": before["classes"][::-1]}
    assert "another order" in refused(before, now)


@pytest.mark.parametrize("name", ["synthetic", "textures"])
def test_generated_images_are_known_by_their_numbers(name, refused):
    before = describe(name, synthetic_length=40)
    check_same(before, describe(name, synthetic_length=40))
    assert "40 training images and are 44" in refused(before, describe(name, synthetic_length=44))


def test_fashion_mnist_is_known_by_its_sums():
    found = describe("fashion_mnist")
    check_same(found, describe("fashion_mnist"))
    assert found["data"]["train_fingerprint"] != found["data"]["test_fingerprint"]


def test_a_mean_image_is_known_by_its_content(pictures, refused, tmp_path):
    for name, value in (("a", 1), ("b", 2), ("c", 1)):
        np.save(tmp_path / f"{name}.npy", np.full((3, 3, 3), value, np.float32))
    one, other, moved = (
        describe(folder=pictures, mean_image=tmp_path / f"{name}.npy") for name in "abc"
    )
    check_same(one, moved)
    assert "data.mean_image" in refused(one, other)
    assert "data.mean_image" in refused(one, describe(folder=pictures))


def test_another_number_of_steps_is_told(pictures, refused):
    before = describe(folder=pictures)
    now = {**before, "data": {**before["data"], "total_steps": 7}}
    assert "10 steps and has 7" in refused(before, now)


def test_a_state_of_an_older_version_is_resumed_unless_its_classes_differ(pictures, refused):
    now = describe(folder=pictures)
    check_same({}, now)
    check_same({"classes": now["classes"]}, now)
    assert "cat is gone" in refused({"classes": [*now["classes"], "cat"]}, now)
