"""The order of an epoch, and the batches that follow from it."""

import threading
import time
from collections.abc import Sequence

import pytest
import torch

from common.errors import ReportedError
from data.image_folder import ImageFolder
from data.loading import AHEAD, WINDOW, Loader, epoch_order
from data.synthetic import Synthetic

LARGEST_SEED = 2**32 - 1
ORDER = [9, 8, 2, 3, 10, 0, 11, 4, 7, 6, 5, 1]
ORDER_IN_BLOCKS = [
    *(27, 10, 39, 34, 20, 35, 21, 28, 37, 15, 36, 26, 29, 14, 11, 38, 13, 12, 32, 16),
    *(30, 0, 17, 1, 5, 33, 3, 31, 4, 2, 6, 7, 25, 9, 24, 22, 19, 23, 8, 18),
]


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


def test_the_orders_of_earlier_runs_are_still_theirs():
    assert epoch_order(5, 3, 12).tolist() == ORDER
    assert epoch_order(5, 3, 12, 0).tolist() == ORDER
    assert epoch_order(5, 3, 40, 2).tolist() == ORDER_IN_BLOCKS


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 1000, 1003])
@pytest.mark.parametrize("block", [1, 8, 100, 2000])
def test_an_epoch_in_blocks_visits_every_image_once(length, block):
    orders = [epoch_order(3, epoch, length, block) for epoch in range(3)]
    for order in orders:
        assert order.dtype == torch.int64
        assert order.sort().values.tolist() == list(range(length))
    assert torch.equal(orders[2], epoch_order(3, 2, length, block))
    if length > 100:
        assert len({tuple(order.tolist()) for order in orders}) == 3


def test_an_epoch_in_blocks_reads_from_few_places_at_a_time():
    block, images = 16, 16 * 100
    order = epoch_order(0, 0, images, block)
    for window in order.split(WINDOW * block):
        assert len(set((window // block).tolist())) <= WINDOW
    first = order[: WINDOW * block]
    assert (first.diff() == 1).sum() < len(first) / 10  # and in no order there
    assert set((epoch_order(0, 1, images, block)[: len(first)] // block).tolist()) != set(
        (first // block).tolist()
    )


def test_the_batches_are_those_asked_for():
    dataset, batches = synthetic(), uneven([3, 1, 19], [], [7], [7, 0])
    loader = Loader(dataset, batches)
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


class Noted:
    """A set that decodes, and notes what was read; ``gate`` lets the reading go on."""

    classes: Sequence[str] = ["any"]
    channels = height = width = 1
    decodes = True
    block = 0

    def __init__(self):
        self.read_so_far: list[list[int]] = []
        self.gate = threading.Event()

    def __len__(self):
        return 100

    def fingerprint(self):
        return "any"

    def read(self, indices):
        self.gate.wait(60)
        self.read_so_far.append(indices.tolist())
        return torch.zeros(len(indices), 1, 1, 1).byte(), indices


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def test_workers_read_ahead_so_far_and_no_further():
    dataset = Noted()
    dataset.gate.set()
    batches = iter(Loader(dataset, list(torch.arange(100).split(1)), workers=3))
    assert next(batches).indices.tolist() == [0]
    known = 1 + 3 * AHEAD
    deadline = time.monotonic() + 60
    while len(dataset.read_so_far) < known and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert sorted(dataset.read_so_far) == [[number] for number in range(known)]
    assert len(loader_threads()) == 3
    del batches


def test_no_worker_goes_on_once_nobody_reads():
    dataset = Noted()
    batches = iter(Loader(dataset, list(torch.arange(100).split(1)), workers=2))
    threading.Timer(0.1, dataset.gate.set).start()
    next(batches)
    del batches
    assert loader_threads() == []
    assert len(dataset.read_so_far) <= 1 + 2 * AHEAD


def test_for_a_gpu_a_thread_pins_each_batch(monkeypatch):
    pinned = []

    def pin(tensor):
        pinned.append((threading.current_thread().name[:6], tensor.tolist()))
        return tensor

    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    gpu = torch.device("cuda", 1)
    ((images, labels, indices),) = Loader(synthetic(), uneven([3, 1]), pin_for=gpu)
    assert set(chosen) == {gpu}
    assert pinned == [("loader", each.tolist()) for each in (images, labels, indices)]


def test_workers_leave_the_threads_of_torch_alone(pictures):
    before = 2
    torch.set_num_threads(before)
    list(Loader(ImageFolder("train", pictures, 8), uneven([0], [1]), workers=2))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_reported_as_reading_it_here_would(pictures, workers):
    dataset = ImageFolder("train", pictures, 8)
    broken = pictures / "train" / "ant" / "2.png"
    broken.write_text("not a picture")
    with pytest.raises(ReportedError) as direct:
        dataset.read(torch.tensor([2]))
    batches = iter(Loader(dataset, uneven([0, 1], [2, 3], [4]), workers))
    assert next(batches).indices.tolist() == [0, 1]
    with pytest.raises(ReportedError) as caught:
        next(batches)
    assert str(caught.value) == str(direct.value)
    assert str(caught.value).startswith(f"{broken} ")


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
