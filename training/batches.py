"""The images of a run: its data sets, and each replica's part of every batch."""

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from common.errors import ReportedError
from data.arrays import read_array, read_header
from data.datasets import Dataset
from data.loading import Batch, Loader, epoch_order
from data.parts import draw, hold_out
from data.preprocess import Preprocess
from distributed.device import on_device, to_device
from distributed.mesh import Mesh
from training.config import Config, DataConfig
from training.precision import PRECISIONS

T = TypeVar("T")

ROUNDING = 1e-9
"""A variance may be that much of the largest one below 0: grey images have two of 0."""


class LocalBatch(NamedTuple):
    """One replica's part of a global batch of ``global_count`` images.

    ``indices`` are the images of all replicas, one tensor for each: whoever needs another's random
    numbers computes them from these. ``epochs_done`` counts epochs from the start of the run to
    after this batch.
    """

    batch: Batch
    indices: Sequence[Tensor]
    global_count: int
    epoch: int = 0
    epochs_done: float = 0.0

    @property
    def shares(self) -> list[int]:
        """The number of images of each replica."""
        return [len(each) for each in self.indices]

    def parts(self, number: int) -> list["LocalBatch"]:
        """The batch in ``number`` parts of each replica, of the same global batch."""
        batches = zip(*(tensor.tensor_split(number) for tensor in self.batch), strict=True)
        indices = zip(*(each.tensor_split(number) for each in self.indices), strict=True)
        return [
            self._replace(batch=Batch(*batch), indices=part)
            for batch, part in zip(batches, indices, strict=True)
        ]

    @property
    def ends_epoch(self) -> bool:
        """True for the last batch of an epoch."""
        return self.epochs_done.is_integer()


def open_sets(data: DataConfig, mesh: Mesh) -> tuple[Dataset, Dataset]:
    """The training set, and the test set or the held-out images in its place.

    Missing files are downloaded once for all ranks of a node.
    Raises ReportedError on every rank if rank 0 cannot open them, or if other ranks find others.
    """
    train, test = _main_first(mesh, lambda: _both(data))
    _check_equal(mesh, train, test)
    return train, test


def open_test_set(data: DataConfig, mesh: Mesh) -> Dataset:
    """The test set alone; otherwise as ``open_sets``."""
    test = _main_first(mesh, lambda: _both(data)[1] if data.held_out else data.open("test"))
    _check_equal(mesh, test)
    return test


def _check_equal(mesh: Mesh, *sets: Dataset) -> None:
    """Raise ReportedError on every rank if the sets of some have other numbers of images."""
    counts = " and ".join(f"{len(each):,}" for each in sets)
    own = f"{counts} images of {len(sets[0].classes)} classes"
    mesh.check_equal(own, "ranks find different data", "give all nodes the same files")


def _main_first(mesh: Mesh, opened: Callable[[], T]) -> T:
    """The result of ``opened`` on every rank, once it has succeeded on rank 0."""
    found: list[T] = []
    mesh.from_main(lambda: found.append(opened()))
    return found[0] if found else opened()


def _both(data: DataConfig) -> tuple[Dataset, Dataset]:
    train = data.open("train")
    train, test = hold_out(train, data.held_out) if data.held_out else (train, data.open("test"))
    return draw(train, data.train_images) if data.train_images else train, test


def make_preprocess(config: Config, channels: int) -> Preprocess:
    """The function from uint8 images with ``channels`` to the network's input.

    Raises ReportedError if the configuration's numbers or its mean image are for other images.
    """
    data = config.data
    mean, std = (
        value if isinstance(value, list) else [value] * channels for value in (data.mean, data.std)
    )
    resize = data.resize or data.size
    return Preprocess(
        *(data.size, resize, mean, std, data.mirror, PRECISIONS[config.precision].dtype),
        mean_image=_mean_image(data.mean_image, (resize, resize, channels)),
        colors=_color_changes(data, channels) if data.color_noise else None,
    )


def _mean_image(path: Path | None, shape: tuple[int, int, int]) -> Tensor | None:
    """The mean image in a file, float32 of ``shape``."""
    if path is None:
        return None
    try:
        if (found := read_header(path).shape) != shape:
            if found == (shape[2], *shape[:2]):
                raise ReportedError(
                    f"data.mean_image: {path} has the axes (channels, rows, columns) and should "
                    "have (rows, columns, channels): turn them with numpy.transpose(image, "
                    "(1, 2, 0)), and if it is Caffe's, change BGR to RGB as well"
                )
            raise ReportedError(
                f"data.mean_image: {path} has shape {found}, and images have {shape}: set "
                "data.resize to the side of the mean image"
            )
        image = torch.from_numpy(read_array(path).astype(np.float32))
        if not image.isfinite().all():
            raise ValueError("not all of its numbers are finite")
    except ReportedError:
        raise
    except (OSError, TypeError, ValueError) as error:
        raise ReportedError(
            f"data.mean_image: {path} cannot be read as a NumPy array ({error}): name the "
            "mean-image.npy of a folder that prepare.py made"
        ) from None
    return image


def _color_changes(data: DataConfig, channels: int) -> Tensor:
    """Principal components (C, C) of the colors, one in a row, as long as a usual change.

    The text of section 4.1 multiplies a component by its eigenvalue, which depends on the unit of
    the pixels; the authors' later code (cuda-convnet2) by the eigenvalue's root, as here.
    """
    refusal = ReportedError(
        f"data.color_covariance is not the covariance of {channels} channels: copy what "
        "prepare.py prints"
    )
    rows = data.color_covariance or []
    if [len(row) for row in rows] != [channels] * channels:
        raise refusal
    covariance = torch.tensor(rows, dtype=torch.float64)
    variances, components = torch.linalg.eigh(covariance)
    if (
        not torch.equal(covariance, covariance.T)
        or not -ROUNDING * variances[-1] <= variances[0] <= variances[-1] < math.inf
    ):
        raise refusal
    return data.color_noise * (components * variances.clamp_min(0).sqrt()).T


def count_steps(config: Config, images: int) -> int:
    """Optimiser steps of a whole run on ``images`` training images."""
    epochs = Fraction(str(config.epochs))  # 1.1 as it is written: as binary it is a little more
    steps = math.ceil(epochs * steps_per_epoch(config, images))
    return min(steps, config.max_steps or steps)


def steps_per_epoch(config: Config, images: int) -> int:
    """Global batches in an epoch of ``images``, the last of which may be short."""
    return -(-images // config.batch_size)


def local_batches(
    config: Config, mesh: Mesh, dataset: Dataset, first: int, last: int
) -> Iterator[LocalBatch]:
    """Yield this replica's part of the global batches ``first`` to ``last`` (exclusive) of the run.

    An epoch visits every image once over all replicas. Its last batch may be short, and the local
    batches uneven. The towers of a replica read the same images in the same order.
    """
    per_epoch = steps_per_epoch(config, len(dataset))
    while first < last:
        epoch, done = divmod(first, per_epoch)
        order = epoch_order(config.seed, epoch, len(dataset), dataset.block)
        order = order.split(config.batch_size)[done : done + last - first]
        loader = _batches(config, mesh, dataset, order)
        for global_batch in order:
            with mesh.timer.whereabouts.inside(f"step {first + 1}"), mesh.timer.part("data"):
                batch = next(loader)
            first += 1
            indices = _everyones(global_batch, mesh)
            yield LocalBatch(batch, indices, len(global_batch), epoch, first / per_epoch)


def test_batches(config: Config, mesh: Mesh, dataset: Dataset) -> Iterator[LocalBatch]:
    """This replica's part of the test set, each image once over all replicas.

    Every replica has as many batches. The last may be short or empty.
    """
    order = torch.arange(len(dataset)).split(config.batch_size)
    loader = _batches(config, mesh, dataset, order)
    for global_batch, batch in zip(order, loader, strict=True):
        yield LocalBatch(batch, _everyones(global_batch, mesh), len(global_batch))


def _everyones(global_batch: Tensor, mesh: Mesh) -> Sequence[Tensor]:
    """Each replica's part of a batch of positions, on this process's device."""
    return to_device(global_batch, mesh.device).tensor_split(mesh.plan.features.replicas)


def _batches(
    config: Config, mesh: Mesh, dataset: Dataset, global_batches: Sequence[Tensor]
) -> Iterator[Batch]:
    """Load this replica's part of each batch of positions, on this process's device."""
    replicas = mesh.plan.features.replicas
    local = [batch.tensor_split(replicas)[mesh.replica] for batch in global_batches]
    gpu = mesh.device if mesh.device.type == "cuda" else None
    loader = Loader(dataset, local, config.data.workers, pin_for=gpu)
    return on_device(loader, mesh.device)
