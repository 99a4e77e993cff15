"""Made-up textures: the same every time, and neither colour nor light alone tells them apart."""

import pytest
import torch

from data.datasets import open_dataset
from data.textures import ANGLES, COLORS, Textures


def read(split="train", length=320, side=48, seed=0):
    return Textures(split, length, side, seed).read(torch.arange(length))


def test_the_same_arguments_give_the_same_images_however_they_are_read():
    images, labels = read()
    again = Textures("train", 320, 48).read(torch.tensor([7, 0, 319]))
    assert torch.equal(again[0], images[[7, 0, 319]])
    assert torch.equal(again[1], labels[[7, 0, 319]])


@pytest.mark.parametrize("change", [{"split": "test"}, {"seed": 1}])
def test_another_split_or_seed_gives_other_images_and_labels(change):
    images, labels = read()
    others = read(**change)
    assert (images != others[0]).flatten(1).any(1).all()
    assert not torch.equal(labels, others[1])


def test_images_and_labels_are_what_the_set_declares():
    dataset = open_dataset("textures", "train", stored_size=40, synthetic_length=400)
    images, labels = dataset.read(torch.arange(len(dataset)))
    assert (images.shape, images.dtype) == ((400, 3, 40, 40), torch.uint8)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert len(dataset.classes) == len(COLORS) * len(ANGLES) == 16
    assert labels.unique().tolist() == list(range(16))
    assert len(open_dataset("textures", "test", synthetic_length=400)) == 100
    assert dataset.read(torch.arange(0))[0].shape == (0, 3, 40, 40)


def _means(images, labels, groups):
    """The mean of the images of each group of classes, (groups, 3, H, W)."""
    return torch.stack([images[labels == group].mean(0) for group in range(groups)])


def test_a_grey_copy_says_nothing_of_the_color():
    images, labels = read(length=4000)
    grey = images.float().mean((1, 2, 3))
    means = torch.stack([grey[labels // 4 == color].mean() for color in range(4)])
    assert (means - means.mean()).abs().max() < 1


def test_the_mean_color_names_the_region_s():
    images, labels = read(length=2000)
    tint = images.float().mean((2, 3)) - images.float().mean((1, 2, 3))[:, None]
    directions = torch.nn.functional.normalize(torch.tensor(list(COLORS.values())), dim=1)
    assert ((tint @ directions.T).argmax(1) == labels // 4).float().mean() > 0.95


def test_the_strongest_frequency_names_the_grating_s_angle():
    images, labels = read(length=500)
    grey = images.float().mean(1)
    spectrum = torch.fft.fft2(grey - grey.mean((1, 2), keepdim=True)).abs()
    strongest = spectrum.flatten(1).argmax(1)
    frequencies = torch.fft.fftfreq(48)
    down, over = frequencies[strongest // 48], frequencies[strongest % 48]
    angle = torch.atan2(down, over).rad2deg() % 180
    found = ((angle + 22.5) // 45).long() % 4
    assert (found == labels % 4).float().mean() > 0.95
