"""The images of a run: its data sets, and each replica's share of every batch."""

from collections.abc import Iterator

import torch

from data.datasets import Dataset, open_dataset
from data.loading import Batch, Loader, epoch_order
from data.preprocess import Preprocess
from distributed.mesh import Mesh
from training.config import Config, DataConfig
from training.meters import Stopwatch


def open_sets(config: Config) -> tuple[Dataset, Dataset]:
    """The training and the test set."""
    data = config.data
    train, test = (
        open_dataset(data.name, split, data.folder, data.stored_size, data.synthetic_length)
        for split in ("train", "test")
    )
    return train, test


def make_preprocess(data: DataConfig, channels: int) -> Preprocess:
    """From uint8 images to the network's input."""
    mean, deviation = (
        value if isinstance(value, list) else [value] * channels
        for value in (data.mean, data.deviation)
    )
    return Preprocess(data.size, data.resize or data.size, mean, deviation, data.mirror)


def epoch_batches(
    config: Config, mesh: Mesh, dataset: Dataset, watch: Stopwatch, epoch: int, done: int
) -> Iterator[tuple[Batch, int]]:
    """This replica's share of each global batch after the first ``done``, and the batch's size.

    An epoch visits every image once over all replicas; the last batch may be short, its shares
    uneven. The towers of a replica read the same images in the same order.
    """
    order = epoch_order(config.seed, epoch, len(dataset)).split(config.batch_size)[done:]
    shares = [batch.tensor_split(mesh.plan.replicas)[mesh.replica] for batch in order]
    loader = iter(Loader(dataset, shares, mesh.device, config.data.workers))
    for global_batch in order:
        with watch.part("data"):
            batch = next(loader)
        yield batch, len(global_batch)


def test_batches(config: Config, mesh: Mesh, dataset: Dataset) -> Loader:
    """This replica's share of the test set, each image once over all replicas."""
    share = torch.arange(len(dataset)).tensor_split(mesh.plan.replicas)[mesh.replica]
    per_replica = -(-config.batch_size // mesh.plan.replicas)
    return Loader(dataset, share.split(per_replica), mesh.device, config.data.workers)
