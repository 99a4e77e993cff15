"""From stored images to the network's input, a batch at a time and on the device."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from model.errors import InputError
from model.keyed_random import uniform

STREAM = 0
"""Keeps these draws apart from those of the network's layers."""


class Preprocess:
    """Resize, crop, mirror and standardize images.

    Images are resized to squares of ``resize`` pixels and cut to ``size``. In training the place
    of the cut is random and, with ``mirror``, half of the images are flipped left to right; both
    follow from each image's key. In evaluation the cut is central. ``mean`` and ``std`` hold one
    number per channel, in units of the pixels (0 to 255).

    Raises InputError when ``resize`` is below ``size``, or ``mean`` and ``std`` do not fit.
    """

    def __init__(
        self, size: int, resize: int, mean: Sequence[float], std: Sequence[float], mirror: bool
    ) -> None:
        if resize < size:
            raise InputError(
                f"images resized to {resize} pixels cannot be cut to {size}: make data.resize at "
                "least data.size"
            )
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise InputError(
                "the mean and the deviation of the pixels need one number per channel, and each "
                f"deviation must be positive: correct {list(mean)} and {list(std)}"
            )
        self.size, self.resize, self.mirror = size, resize, mirror
        self.mean = torch.tensor(mean, dtype=torch.float32)[:, None, None]
        self.std = torch.tensor(std, dtype=torch.float32)[:, None, None]

    def __call__(self, images: Tensor, keys: Tensor | None = None) -> Tensor:
        """Images (B, C, h, w) uint8 to (B, C, size, size) float32 in channels-last memory.

        ``keys`` (B,) int64 make it training's; without them it is evaluation's. What becomes of an
        image depends on it and on its key alone, not on the rest of the batch.

        Raises InputError when C is not the number of means.
        """
        self._check_channels(images.shape[1])
        self._move(images.device)
        x = self._cut(self._resized(images), keys)
        x = x.to(torch.float32, memory_format=torch.channels_last)
        return (x - self.mean) / self.std

    def _resized(self, images: Tensor) -> Tensor:
        side, stored = (self.resize, self.resize), images.shape[2:]
        if stored == side:
            return images
        return F.interpolate(
            images.float(), side, mode="bilinear", antialias=max(stored) > self.resize
        )

    def _cut(self, images: Tensor, keys: Tensor | None) -> Tensor:
        """Windows (B, C, size, size) of ``images`` (B, C, resize, resize)."""
        margin = self.resize - self.size
        if keys is not None and (margin or self.mirror):
            return self._random_windows(images, keys)
        start = margin // 2
        return images[:, :, start : start + self.size, start : start + self.size]

    def _random_windows(self, images: Tensor, keys: Tensor) -> Tensor:
        """One gather for crop and flip; as it moves whole pixels, its memory is channels-last."""
        draws = uniform(keys, STREAM, 3)
        top, left = (draws[:, :2] * (self.resize - self.size + 1)).long().unbind(1)
        steps = torch.arange(self.size, device=images.device)
        rows = top[:, None] + steps
        columns = left[:, None] + steps
        if self.mirror:
            columns = torch.where(draws[:, 2:] < 0.5, columns.flip(1), columns)
        image = torch.arange(len(images), device=images.device)[:, None, None]
        pixels = images.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]
        return pixels.permute(0, 3, 1, 2)

    def _check_channels(self, channels: int) -> None:
        if len(self.mean) != channels:
            raise InputError(
                f"the images have {channels} channels, and the mean and the deviation "
                f"{len(self.mean)}: give one number for each channel"
            )

    def _move(self, device: torch.device) -> None:
        if self.mean.device != device:
            self.mean, self.std = self.mean.to(device), self.std.to(device)
