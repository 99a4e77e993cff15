"""The order of an epoch, and the batches that follow from it."""

import os
from collections.abc import Sequence

import pytest
import torch

from data.image_folder import ImageFolder
from data.loading import Loader, epoch_order
from data.synthetic import Synthetic
from model.errors import InputError

LARGEST_SEED = 2**32 - 1


def synthetic(length=20):
    return Synthetic("train", length, classes=3, channels=1, height=4, width=4)


def uneven(*batches):
    return [torch.tensor(batch, dtype=torch.int64) for batch in batches]


@pytest.mark.parametrize("length", [0, 1, 1000])
@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (LARGEST_SEED, 89)])
def test_an_epoch_visits_every_image_once(seed, epoch, length):
    order = epoch_order(seed, epoch, length)
    assert order.dtype == torch.int64
    assert order.sort().values.tolist() == list(range(length))


def test_every_seed_and_epoch_has_an_order_of_its_own():
    seeds, epochs = [0, 1, 2, 2**31, 2**31 + 1, LARGEST_SEED], range(20)
    orders = {tuple(epoch_order(seed, epoch, 50).tolist()) for seed in seeds for epoch in epochs}
    assert len(orders) == len(seeds) * len(epochs)


def test_the_order_follows_from_its_arguments_alone():
    before = epoch_order(5, 3, 100)
    torch.manual_seed(9)
    state = torch.get_rng_state()
    assert torch.equal(epoch_order(5, 3, 100), before)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_batches_are_those_asked_for():
    dataset, batches = synthetic(), uneven([3, 1, 19], [], [7], [7, 0])
    loader = Loader(dataset, batches)
    assert len(loader) == 4
    for read, asked in zip(loader, batches, strict=True):
        images, labels = dataset.read(asked)
        assert torch.equal(read.indices, asked)
        assert torch.equal(read.images, images)
        assert torch.equal(read.labels, labels)
        assert read.indices.dtype == read.labels.dtype == torch.int64
        assert read.images.dtype == torch.uint8


@pytest.mark.parametrize("workers", [0, 2])
def test_no_batches_are_no_batches(pictures, workers):
    assert list(Loader(ImageFolder("train", pictures, 8), [], workers)) == []


def test_workers_read_the_same_batches_in_the_same_order(pictures):
    dataset = ImageFolder("train", pictures, 8)
    batches = uneven([5, 0], [], [1, 1, 2, 3], [4], [0], [2])
    here, there = (list(Loader(dataset, batches, workers)) for workers in (0, 2))
    assert [batch.indices.tolist() for batch in there] == [batch.tolist() for batch in batches]
    assert [batch.images[:, 0, 0, 0].tolist() for batch in there] == [
        batch.tolist() for batch in batches
    ]
    for one, other in zip(here, there, strict=True):
        assert all(map(torch.equal, one, other))


def test_only_sets_that_decode_are_read_by_workers(pictures):
    batches = uneven([0], [1], [2])
    assert Loader(synthetic(), batches, workers=2).workers == 0
    assert Loader(ImageFolder("train", pictures, 8), batches, workers=2).workers == 2
    assert Loader(ImageFolder("train", pictures, 8), batches, workers=9).workers == 3


class Parents:
    """A set whose labels are the parent of the process that reads them."""

    classes: Sequence[str] = ["any"]
    channels = height = width = 1
    decodes = True
    block = 0

    def __len__(self):
        return 1

    def read(self, indices):
        return torch.zeros(len(indices), 1, 1, 1).byte(), torch.full_like(indices, os.getppid())


def test_workers_are_not_forked_from_this_process_and_its_threads():
    (batch,) = Loader(Parents(), uneven([0]), workers=1)
    assert batch.labels.item() not in (os.getpid(), os.getppid())


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_an_input_error_with_nothing_but_its_message(pictures, workers):
    dataset = ImageFolder("train", pictures, 8)
    broken = pictures / "train" / "ant" / "2.png"
    broken.write_text("not a picture")
    with pytest.raises(InputError) as direct:
        dataset.read(torch.tensor([2]))
    batches = iter(Loader(dataset, uneven([0, 1], [2, 3], [4]), workers))
    assert next(batches).indices.tolist() == [0, 1]
    with pytest.raises(InputError) as caught:
        next(batches)
    assert str(caught.value) == str(direct.value)
    assert str(caught.value).startswith(f"{broken} cannot be read as an image")


def test_another_error_is_not_taken_for_the_user_s(monkeypatch):
    monkeypatch.setattr(Synthetic, "read", lambda dataset, indices: dataset.missing)
    with pytest.raises(AttributeError, match="missing"):
        list(Loader(synthetic(), uneven([0])))


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_leaves_torch_s_random_numbers_alone(pictures, workers):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    list(Loader(ImageFolder("train", pictures, 8), uneven([0], [1]), workers))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_set_can_be_read_again(pictures):
    loader = Loader(ImageFolder("train", pictures, 8), uneven([0, 1], [2]))
    for _ in range(2):
        assert [batch.indices.tolist() for batch in loader] == [[0, 1], [2]]
