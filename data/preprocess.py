"""From stored images to the network's input, a batch at a time and on the device."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import ReportedError
from model.keyed_random import normal, uniform
from native.crop import Resizing, can_crop, crop, make_resizing
from native.fusion import compiled, fuses

WINDOW_STREAM, COLOR_STREAM = 0, 1
"""Keep these draws apart from each other and from those of the network's layers."""


class View(NamedTuple):
    """A crop of a test image: its corner, as parts of the margin, and True to mirror it."""

    top: float
    left: float
    mirrored: bool


CENTER = View(0.5, 0.5, False)
_PLACES = [(0.5, 0.5), (0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]
VIEWS = {
    1: [CENTER],
    2: [CENTER, CENTER._replace(mirrored=True)],
    10: [View(*place, mirrored) for mirrored in (False, True) for place in _PLACES],
}
"""A test image's views, by their number: ten are those of Krizhevsky et al. 2012, section 4.1."""


class Preprocess:
    """Resize, crop, mirror, color and standardize images.

    Images are resized to squares of ``resize`` pixels and cropped to ``size``. In training the
    crop's corner is random and, with ``mirror``, half of the images are mirrored left to right;
    both follow from each image's key. In evaluation a view is cropped, by default the center.

    ``mean`` and ``std`` hold one number per channel, in units of the pixels (0 to 255).
    ``mean_image`` (resize, resize, C) takes the place of ``mean``: its center is subtracted from
    every crop. ``colors`` (C, C) are changes of color, of which each training image gets a
    normally distributed multiple. The output is of ``dtype``. The plain form also resizes in
    ``dtype``, the compiled kernel in float32; both standardize in float32.

    Raises ReportedError when ``mean``, ``std`` and the images have different numbers of channels.
    """

    def __init__(
        self,
        size: int,
        resize: int,
        mean: Sequence[float],
        std: Sequence[float],
        mirror: bool,
        dtype: torch.dtype = torch.float32,
        *,
        mean_image: Tensor | None = None,
        colors: Tensor | None = None,
    ) -> None:
        if len(mean) != len(std):
            raise ReportedError(
                f"data.mean is {list(mean)} and data.std {list(std)}: give one number per channel "
                "for each"
            )
        self.size, self.resize, self.mirror, self.dtype = size, resize, mirror, dtype
        self.channels = len(mean)
        # (x - mean) / std = x · factors + shifts; factors (C,), shifts (1 or size, size, C)
        self.factors = 1 / torch.tensor(std, dtype=torch.float32)
        if mean_image is None:
            subtracted = torch.tensor(mean).expand(1, size, -1)
        else:
            start = (resize - size) // 2
            center = slice(start, start + size)
            subtracted = mean_image[center, center]
        self.shifts = -subtracted.float() * self.factors
        self.colors = None if colors is None else colors.float() * self.factors

    def __call__(self, images: Tensor, keys: Tensor | None = None, view: View = CENTER) -> Tensor:
        """Images (B, C, h, w) uint8 to (B, C, size, size) in channels-last memory.

        With ``keys`` (B,) int64 as in training, without them as in evaluation, cropping ``view``.
        The result for an image depends on it and its key alone, not on the rest of the batch.

        Raises ReportedError when C is not the number of means.
        """
        if images.shape[1] != self.channels:
            raise ReportedError(
                f"the images have {images.shape[1]} channels, and data.mean and data.std "
                f"{self.channels} numbers: give one number for each channel"
            )
        device = images.device
        self.factors, self.shifts = self.factors.to(device), self.shifts.to(device)
        windows = self.windows(images, keys, view)
        colors = self.color_changes(images, keys)
        if can_crop(device, self.dtype):
            return self.fused(images, windows, colors)
        return self.plain(images, windows, colors)

    def windows(self, images: Tensor, keys: Tensor | None, view: View = CENTER) -> Tensor:
        """Each image's crop, (B, 3) int64: top, left, and 1 if it is mirrored."""
        margin = self.resize - self.size
        if keys is None:
            window = int(view.top * margin), int(view.left * margin), int(view.mirrored)
            count, device = len(images), images.device
            return torch.stack([torch.full((count,), each, device=device) for each in window], 1)
        draws = uniform(keys, WINDOW_STREAM, 3)
        corners = (draws[:, :2] * (margin + 1)).long()  # (B, 2)
        return torch.cat([corners, (draws[:, 2:] < 0.5 * self.mirror).long()], 1)

    def color_changes(self, images: Tensor, keys: Tensor | None) -> Tensor:
        """Numbers to add to each standardized image, (B, C)."""
        if keys is None or self.colors is None:
            return torch.zeros(len(images), self.channels, device=images.device)
        self.colors = self.colors.to(images.device)
        return normal(keys, COLOR_STREAM, self.channels) @ self.colors

    def plain(self, images: Tensor, windows: Tensor, colors: Tensor) -> Tensor:
        """Resize, crop, mirror and standardize, as matrix products, on any device."""
        device = images.device
        down, across = (
            interpolation(side, self.resize, device).to(self.dtype) for side in images.shape[2:]
        )
        sample = compiled(self.sample) if fuses(device) else self.sample
        return sample(images, windows, colors, down, across)

    def sample(
        self, images: Tensor, windows: Tensor, colors: Tensor, down: Tensor, across: Tensor
    ) -> Tensor:
        """The windows of images resized by ``down`` (resize, h) and ``across`` (resize, w).

        A matrix interpolates an image's rows, another its columns: resized = down @ x @ acrossᵀ.
        A crop needs some rows of both. Where nothing is resized, they have a single 1 in each row,
        and the result is exact.
        """
        channels, height = images.shape[1:3]
        top, left, mirrored = windows.unbind(1)  # each (B,)
        flip = mirrored.bool()
        left = torch.where(flip, self.resize - self.size - left, left)  # of the flipped image
        steps = torch.arange(self.size, device=images.device)
        rows, columns = top[:, None] + steps, left[:, None] + steps  # (B, size)
        x = images.to(self.dtype)  # (B, C, height, width)
        x = torch.where(flip[:, None, None, None], x.flip(3), x)
        x = x.flatten(1, 2)  # (B, C·height, width)
        x = x @ across[columns].mT  # (B, C·height, size)
        x = x.unflatten(1, (channels, height)).transpose(1, 2).flatten(2)  # (B, height, C·size)
        x = down[rows] @ x  # (B, size, C·size)
        x = x.unflatten(2, (channels, self.size)).transpose(2, 3)  # (B, size, size, C)
        x = torch.addcmul(self.shifts + colors[:, None, None], x.float(), self.factors)
        return x.to(self.dtype).contiguous().permute(0, 3, 1, 2)  # (B, C, size, size)

    def fused(self, images: Tensor, windows: Tensor, colors: Tensor) -> Tensor:
        """Compute the same as ``plain`` in one pass over memory, by the compiled kernel."""
        resizing = _resizing(*images.shape[1:], self.resize)
        return crop(
            images,
            windows,
            resizing,
            factors=self.factors,
            shifts=self.shifts,
            colors=colors,
            dtype=self.dtype,
        )


@functools.cache
def interpolation(stored: int, resize: int, device: torch.device) -> Tensor:
    """Bilinear interpolation of a row of ``stored`` pixels, as a (resize, stored) matrix.

    Where it shrinks, it averages ("antialias").
    """
    each = torch.eye(stored, device=device)[None, None]  # (1, 1, stored, stored)
    shrinks = stored > resize
    return F.interpolate(each, (resize, stored), mode="bilinear", antialias=shrinks)[0, 0]


@functools.cache
def _resizing(channels: int, height: int, width: int, resize: int) -> Resizing:
    if height == width == resize:
        return Resizing(resize)
    cpu = torch.device("cpu")
    down, across = (interpolation(side, resize, cpu) for side in (height, width))
    return make_resizing(down, across, channels)
