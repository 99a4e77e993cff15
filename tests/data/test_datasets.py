"""The data sets that a configuration can name."""

import pytest
import torch
from pydantic import ValidationError

from data.datasets import DATASETS, Row, open_dataset
from training.config import Config, DataConfig


def test_a_row_is_all_that_a_new_data_set_needs(monkeypatch):
    row = Row(DATASETS["synthetic"].open, side=24, folder="a folder with my files")
    monkeypatch.setitem(DATASETS, "mine", row)
    with pytest.raises(ValidationError, match="a folder with my files"):
        Config(data=DataConfig(name="mine"))
    data = Config(data=DataConfig(name="mine", folder=".", stored_size=24)).data
    assert data.image_side == open_dataset(data.name, "test", data.folder, 24).height == 24


@pytest.mark.parametrize(
    ("name", "side"), [("fashion_mnist", 28), ("synthetic", 40), ("textures", 40)]
)
def test_the_side_of_a_set_s_images_is_known_without_opening_it(name, side):
    assert DataConfig(name=name, stored_size=40).image_side == side


@pytest.mark.parametrize("name", ["image_folder", "synthetic"])
@pytest.mark.parametrize(("split", "length"), [("train", 8), ("test", 2)])
def test_a_set_is_opened_by_its_name_and_has_the_declared_form(pictures, name, split, length):
    dataset = open_dataset(name, split, pictures, stored_size=24, synthetic_length=8)
    assert len(dataset) == length
    images, labels = dataset.read(torch.tensor([1, 0]))
    assert images.shape == (2, dataset.channels, dataset.height, dataset.width) == (2, 3, 24, 24)
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.int64
    assert labels.max() < len(dataset.classes)


@pytest.mark.parametrize(("length", "test_length"), [(2048, 512), (7, 1), (1, 1)])
def test_there_are_a_quarter_as_many_synthetic_test_images(length, test_length):
    assert len(open_dataset("synthetic", "train", None, 8, length)) == length
    assert len(open_dataset("synthetic", "test", None, 8, length)) == test_length
