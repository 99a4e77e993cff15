"""The order of an epoch, and its batches."""

import multiprocessing
from collections.abc import Iterator, Sequence
from multiprocessing.context import BaseContext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from data.datasets import Dataset
from model.errors import InputError
from model.keyed_random import hash32


class Batch(NamedTuple):
    """Images (B, C, H, W) uint8, their labels (B,) and their positions in the set (B,), int64."""

    images: Tensor
    labels: Tensor
    indices: Tensor


WINDOW = 8
"""Blocks whose images an epoch mixes with each other."""


def epoch_order(seed: int, epoch: int, length: int, block: int = 0) -> Tensor:
    """The order in which an epoch visits ``length`` images, (length,) int64, each once.

    Without ``block`` any order is as likely as any other. With it, the order is one for reading
    from a disk: runs of ``block`` images are shuffled, then the images of each ``WINDOW`` runs in a
    row, so that at any time an epoch reads from few places. This mixes well if the images were
    stored in random order.

    It depends on the arguments alone: every rank computes the same, and so does a resumed run.
    """
    # A generator of the CPU heeds only 32 bits of its seed, so both numbers are mixed into these.
    mixed = hash32(hash32(torch.tensor(seed)) + epoch)
    generator = torch.Generator().manual_seed(int(mixed))
    if not block:
        return torch.randperm(length, generator=generator)
    blocks = torch.arange(length).split(block)
    shuffled = torch.randperm(len(blocks), generator=generator).tolist()
    windows = torch.cat([blocks[number] for number in shuffled]).split(WINDOW * block)
    return torch.cat([each[torch.randperm(len(each), generator=generator)] for each in windows])


class Loader:
    """Reads given batches, ahead of their use where the set decodes and ``workers`` > 0.

    ``batches`` are the positions (B,) of each batch's images; B may differ, and be 0. A set that
    does not decode is read in this process. With ``pin`` they are in memory that a GPU reads by
    itself.

    Iterating raises InputError when an image cannot be read, from a worker as from this process.
    """

    def __init__(
        self, dataset: Dataset, batches: Sequence[Tensor], workers: int = 0, *, pin: bool = False
    ) -> None:
        self.dataset, self.batches, self.pin = dataset, batches, pin
        self.workers = min(workers, len(batches)) if dataset.decodes else 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        if not self.workers and not self.pin:  # which a DataLoader would take longer for
            yield from (Batch(*self.dataset.read(batch), batch) for batch in self.batches)
            return
        reader: DataLoader[Batch | InputError] = DataLoader(
            _Reader(self.dataset),
            batch_size=None,
            sampler=[batch.tolist() for batch in self.batches],
            num_workers=self.workers,
            multiprocessing_context=_forkserver() if self.workers else None,
            pin_memory=self.pin,
            generator=torch.Generator(),
        )
        for read in reader:
            if isinstance(read, InputError):
                raise read
            yield read


class _Reader(TorchDataset[Batch | InputError]):
    """Batches by the list of their positions.

    An InputError is returned: raised in a worker, it would arrive with a traceback as its message.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, positions: list[int]) -> Batch | InputError:
        indices = torch.tensor(positions, dtype=torch.int64)
        try:
            return Batch(*self.dataset.read(indices), indices)
        except InputError as error:
            return InputError(*error.args)


def _forkserver() -> BaseContext:
    """Workers fork from a small process without threads or GPU, which has imported the packages."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torchvision", "data.loading"])
    return context
