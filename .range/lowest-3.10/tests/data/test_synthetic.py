"""Made-up images: the same every time, and worth learning from."""

import pytest
import torch

from data.synthetic import Synthetic


def synthetic(split="train", length=400, side=32, seed=0):
    return Synthetic(split, length, classes=10, channels=3, height=side, width=side, seed=seed)


def read_all(dataset):
    return dataset.read(torch.arange(len(dataset)))


def test_the_same_arguments_give_the_same_images():
    for one, other in zip(read_all(synthetic()), read_all(synthetic()), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("change", [{"split": "test"}, {"seed": 1}])
def test_another_split_or_seed_gives_other_images_and_labels(change):
    images, labels = read_all(synthetic())
    other_images, other_labels = read_all(synthetic(**change))
    assert (images != other_images).flatten(1).any(1).float().mean() > 0.9
    assert not torch.equal(labels, other_labels)


def test_images_and_labels_are_what_the_set_declares():
    dataset = Synthetic("train", 500, classes=7, channels=2, height=5, width=9)
    images, labels = read_all(dataset)
    assert (images.shape, images.dtype) == ((500, 2, 5, 9), torch.uint8)
    assert (dataset.channels, dataset.height, dataset.width) == (2, 5, 9)
    assert labels.dtype == torch.int64
    assert labels.unique().tolist() == list(range(7))
    assert len(dataset.classes) == 7


def test_images_are_read_by_their_positions():
    dataset = synthetic()
    images, labels = read_all(dataset)
    positions = torch.tensor([7, 0, 7, 399])
    read_images, read_labels = dataset.read(positions)
    assert torch.equal(read_images, images[positions])
    assert torch.equal(read_labels, labels[positions])
    assert dataset.read(positions[:0])[0].shape == (0, 3, 32, 32)


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_nearest_training_mean_names_the_class(split):
    images, labels = read_all(synthetic())
    means = torch.stack([images[labels == label].float().mean(0) for label in range(10)])
    images, labels = read_all(synthetic(split))
    nearest = torch.cdist(images.float().flatten(1), means.flatten(1)).argmin(1)
    assert (nearest == labels).float().mean() > 0.9


def test_the_noise_differs_between_images_of_a_class():
    images, labels = read_all(synthetic())
    assert (images[labels == 3].float().std(0) > 5).all()


def test_the_brightest_pixels_do_not_overflow():
    dataset = Synthetic("train", 1, classes=1000, channels=3, height=4, width=4)
    brightest = dataset.patterns.int().max() + dataset.noise.int().max()
    assert 240 < brightest <= 255
