"""The order of an epoch, and its batches."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from data.datasets import Dataset
from model.keyed_random import hash32


class Batch(NamedTuple):
    """Images (B, C, H, W) uint8, their labels (B,) and their positions in the set (B,), int64."""

    images: Tensor
    labels: Tensor
    indices: Tensor


WINDOW = 8
"""Blocks whose images an epoch mixes with each other."""
AHEAD = 2
"""Batches that each worker reads ahead."""


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
    """Reads given batches, ahead of their use in ``workers`` threads, if there are any.

    ``batches`` are the positions (B,) of each batch's images; B may differ, and be 0. A set that
    does not decode needs no workers. With ``pin`` they are in memory that a GPU reads by itself,
    which takes at least one thread.

    Threads, since decoders and files are read without Python's lock, and since those of a rank that
    is killed end with it. Iterating raises what reading raised, such as ReportedError for an image
    that cannot be read.
    """

    def __init__(
        self, dataset: Dataset, batches: Sequence[Tensor], workers: int = 0, *, pin: bool = False
    ) -> None:
        self.dataset, self.batches, self.pin = dataset, batches, pin
        self.workers = max(workers if dataset.decodes else 0, pin)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        if not self.workers:
            yield from map(self._read, self.batches)
            return
        pool = ThreadPoolExecutor(self.workers, "loader", torch.set_num_threads, (1,))
        ahead: deque[Future[Batch]] = deque()
        try:
            for batch in self.batches:
                ahead.append(pool.submit(self._read, batch))
                if len(ahead) > AHEAD * self.workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, indices: Tensor) -> Batch:
        batch = Batch(*self.dataset.read(indices), indices)
        return Batch(*(each.pin_memory() for each in batch)) if self.pin else batch
