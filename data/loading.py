"""The order of the images in an epoch, and a loader of batches."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from data.datasets import Dataset
from model.keyed_random import hash32


class Batch(NamedTuple):
    """Images (B, C, H, W) uint8, with labels (B,) and positions in the data set (B,), int64."""

    images: Tensor
    labels: Tensor
    indices: Tensor


WINDOW = 8
"""Number of blocks whose images an epoch shuffles together."""
AHEAD = 2
"""Number of batches that each worker reads ahead."""
PINNING = 4
"""Number of threads that keep up with a GPU where nothing is decoded."""


def epoch_order(seed: int, epoch: int, length: int, block: int = 0) -> Tensor:
    """Return a permutation (length,) int64 of the images for one epoch.

    Without ``block`` it is uniform. With ``block`` it suits a disk: shuffle blocks of that many
    neighbouring images, then the images within each ``WINDOW`` consecutive blocks, so that an epoch
    reads from few places at a time. This mixes well if the images were stored in random order.

    The order depends on the arguments alone: every rank computes the same one, and so does a
    resumed run.
    """
    # The CPU's generator uses only 32 bits of its seed, so hash both numbers into these.
    mixed = hash32(hash32(torch.tensor(seed)) + epoch)
    generator = torch.Generator().manual_seed(int(mixed))
    if not block:
        return torch.randperm(length, generator=generator)
    blocks = torch.arange(length).split(block)
    shuffled = torch.randperm(len(blocks), generator=generator).tolist()
    windows = torch.cat([blocks[number] for number in shuffled]).split(WINDOW * block)
    return torch.cat([each[torch.randperm(len(each), generator=generator)] for each in windows])


class Loader:
    """Read batches of a data set, ahead of their use if there are ``workers`` threads.

    ``batches`` are the positions (B,) of each batch's images; B may vary and may be 0. A data set
    that does not decode ignores ``workers``. ``pin_for`` a GPU, batches lie in page-locked memory,
    from which it copies asynchronously; this takes at least ``PINNING`` threads, whatever the data
    set.

    Threads suffice, since decoding and reading release Python's lock, and they end with a rank that
    is killed. Iterating raises the errors of reading, such as ReportedError for a damaged image.
    """

    def __init__(
        self,
        dataset: Dataset,
        batches: Sequence[Tensor],
        workers: int = 0,
        *,
        pin_for: torch.device | None = None,
    ) -> None:
        self.dataset, self.batches, self.pin_for = dataset, batches, pin_for
        self.workers = workers if dataset.decodes else 0
        if pin_for:
            self.workers = max(workers, PINNING)

    def __iter__(self) -> Iterator[Batch]:
        if not self.workers:
            yield from map(self._read, self.batches)
            return
        pool = ThreadPoolExecutor(self.workers, "loader", self._start_thread)
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

    def _start_thread(self) -> None:
        torch.set_num_threads(1)
        if self.pin_for:  # a new thread would use the first GPU, and memory of it
            torch.cuda.set_device(self.pin_for)

    def _read(self, indices: Tensor) -> Batch:
        batch = Batch(*self.dataset.read(indices), indices)
        return Batch(*(each.pin_memory() for each in batch)) if self.pin_for else batch
