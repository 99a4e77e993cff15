"""Crops of photographs: which pictures are taken, and where their test crops lie."""

import errno

import numpy as np
import pytest
from PIL import Image

from data.image_folder import ImageFolder
from examples import crops
from examples.crops import SIDE, is_photographic, write_crops
from tests.calls import call, refusal

rng = np.random.default_rng(0)


def _grain(height, width):
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def _save(pixels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_photographs_are_taken_and_other_pictures_are_not(tmp_path):
    photos, photo = tmp_path / "photos", _grain(500, 700)
    _save(photo, photos / "deep" / "one.png")
    _save(np.full((500, 700, 3), 90, np.uint8), photos / "flat.png")
    _save(_grain(400, 700), photos / "small.png")
    _save(_grain(500, 700), photos / "wall_norm.png")
    _save(np.dstack([_grain(500, 700), np.zeros((500, 700), np.uint8)]), photos / "through.png")
    (photos / "broken.png").write_bytes(b"no picture")
    (photos / "link.png").symlink_to(photos / "deep" / "one.png")
    _save(photo, photos / "zcopy.png")
    _save(_grain(500, 700), photos / "DSC1.JPEG")
    folders = list(write_crops(photos, tmp_path / "pieces"))
    assert [folder.name for folder in folders] == ["0000", "0001"]
    assert len(ImageFolder("train", tmp_path / "pieces", SIDE)) == 2 * crops.TRAIN
    assert len(ImageFolder("test", tmp_path / "pieces", SIDE)) == 2 * crops.TEST
    assert {Image.open(path).size for path in folders[0].iterdir()} == {(SIDE, SIDE)}


def test_test_crops_come_from_a_part_of_the_picture_of_their_own(tmp_path):
    photo = _grain(480, 1000) // 4
    photo[:, 800:] += 128
    _save(photo, tmp_path / "photos" / "one.png")
    [train] = write_crops(tmp_path / "photos", tmp_path / "pieces")
    for split, is_bright in (("train", False), ("test", True)):
        for path in (tmp_path / "pieces" / split / train.name).iterdir():
            assert (np.asarray(Image.open(path)).mean() > 96) == is_bright


@pytest.mark.parametrize(
    ("pixels", "is_photo"),
    [
        (_grain(480, 480), True),
        (_grain(480, 480)[..., :1].repeat(3, 2), True),
        ((_grain(480, 480) // 128 * 255) * np.array([1, 0, 0], np.uint8), False),  # few colors
    ],
)
def test_a_photograph_has_many_colors_or_none(pixels, is_photo):
    assert is_photographic(Image.fromarray(pixels)) == is_photo


@pytest.mark.programs
def test_nothing_is_left_of_crops_that_end_half_way(tmp_path, monkeypatch):
    for name in ("a.png", "b.png"):
        _save(_grain(480, 600), tmp_path / "photos" / name)
    seen = []

    def full(photo):
        seen.append((tmp_path / "pieces").exists())
        if len(seen) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return True

    monkeypatch.setattr(crops, "is_photographic", full)
    told = refusal("examples.crops", tmp_path / "photos", tmp_path / "pieces")
    assert str(tmp_path / "pieces") in told
    assert seen == [False, True]
    assert not (tmp_path / "pieces").exists()


@pytest.mark.programs
def test_the_program_writes_a_new_folder_only(tmp_path):
    _save(_grain(480, 600), tmp_path / "photos" / "one.png")
    status, out = call("examples.crops", tmp_path / "photos", tmp_path / "pieces")
    assert (status, out.splitlines()[-1]) == (0, f"1 classes in {tmp_path / 'pieces'}")
    again = refusal("examples.crops", tmp_path / "photos", tmp_path / "pieces")
    assert str(tmp_path / "pieces") in again
    assert str(tmp_path / "none") in refusal("examples.crops", tmp_path / "none", tmp_path / "new")
    assert not (tmp_path / "new").exists()
