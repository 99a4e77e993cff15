"""From stored images to the network's input, a batch at a time and on the device."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model.errors import InputError
from model.keyed_random import uniform

STREAM = 0
"""Keeps these draws apart from those of the network's layers."""


class View(NamedTuple):
    """Where a test image is cut, as parts of the margin, and whether it is mirrored."""

    top: float
    left: float
    mirrored: bool


CENTRE = View(0.5, 0.5, False)
_PLACES = [(0.5, 0.5), (0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]
VIEWS = {
    1: [CENTRE],
    2: [CENTRE, CENTRE._replace(mirrored=True)],
    10: [View(*place, mirrored) for mirrored in (False, True) for place in _PLACES],
}
"""Of a test image, by their number: ten are those of Krizhevsky et al. 2012, section 4.1."""


class Preprocess:
    """Resize, crop, mirror and standardize images.

    Images are resized to squares of ``resize`` pixels and cut to ``size``. In training the place
    of the cut is random and, with ``mirror``, half of the images are flipped left to right; both
    follow from each image's key. In evaluation a view is cut, by default the centre. ``mean`` and
    ``std`` hold one number per channel, in units of the pixels (0 to 255). All is computed in
    float32, and given as ``dtype``.

    Raises InputError when ``resize`` is below ``size``, or ``mean`` and ``std`` do not fit.
    """

    def __init__(
        self,
        size: int,
        resize: int,
        mean: Sequence[float],
        std: Sequence[float],
        mirror: bool,
        dtype: torch.dtype = torch.float32,
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
        self.size, self.resize, self.mirror, self.dtype = size, resize, mirror, dtype
        self.channels = len(mean)
        # x / std - mean / std, for each number of a row of pixels: long enough to be fast.
        factors = 1 / torch.tensor(std, dtype=torch.float32)
        shifts = -torch.tensor(mean, dtype=torch.float32) * factors
        self.factors, self.shifts = factors.repeat(size), shifts.repeat(size)

    def __call__(self, images: Tensor, keys: Tensor | None = None, view: View = CENTRE) -> Tensor:
        """Images (B, C, h, w) uint8 to (B, C, size, size) in channels-last memory.

        ``keys`` (B,) int64 make it training's; without them it is evaluation's ``view``. What
        becomes of an image depends on it and on its key alone, not on the rest of the batch.

        Raises InputError when C is not the number of means.
        """
        if images.shape[1] != self.channels:
            raise InputError(
                f"the images have {images.shape[1]} channels, and the mean and the deviation "
                f"{self.channels}: give one number for each channel"
            )
        device = images.device
        self.factors, self.shifts = self.factors.to(device), self.shifts.to(device)
        pixels = self._resized(images).permute(0, 2, 3, 1)
        cut = self._cut_each if device.type == "cpu" else self._cut_all
        return cut(pixels, self._windows(pixels, keys, view)).permute(0, 3, 1, 2)

    def _resized(self, images: Tensor) -> Tensor:
        side, stored = (self.resize, self.resize), images.shape[2:]
        if stored == side:
            return images
        return F.interpolate(
            images.float(), side, mode="bilinear", antialias=max(stored) > self.resize
        )

    def _windows(self, pixels: Tensor, keys: Tensor | None, view: View = CENTRE) -> Tensor:
        """Where each image is cut, (B, 3) int64: top, left, and whether it is flipped."""
        margin = self.resize - self.size
        if keys is None:
            corner = int(view.top * margin), int(view.left * margin)
            window = torch.tensor([*corner, int(view.mirrored)], device=pixels.device)
            return window.expand(len(pixels), 3)
        draws = uniform(keys, STREAM, 3)
        corners = (draws[:, :2] * (margin + 1)).long()
        return torch.cat([corners, (draws[:, 2:] < 0.5 * self.mirror).long()], 1)

    def _cut_each(self, pixels: Tensor, windows: Tensor) -> Tensor:
        """Image by image, (B, size, size, C): what the processor's cache holds is fast."""
        out = pixels.new_empty(len(pixels), self.size, self.size, self.channels, dtype=self.dtype)
        scratch = torch.empty(self.size, self.size, self.channels)
        for image, target, (top, left, flip) in zip(pixels, out, windows.tolist(), strict=True):
            window = image[top : top + self.size, left : left + self.size]
            scratch.copy_(window.flip(1) if flip else window)
            target.copy_(self._standardized(scratch))
        return out

    def _cut_all(self, pixels: Tensor, windows: Tensor) -> Tensor:
        """The same in one gather: a GPU would spend its time on starting many small copies."""
        top, left, flip = windows[:, :, None].unbind(1)
        steps = torch.arange(self.size, device=pixels.device)
        rows, columns = top + steps, left + torch.where(flip.bool(), steps.flip(0), steps)
        image = torch.arange(len(pixels), device=pixels.device)[:, None, None]
        cut = pixels[image, rows[:, :, None], columns[:, None, :]].float()
        return self._standardized(cut).to(self.dtype)

    def _standardized(self, cut: Tensor) -> Tensor:
        """(…, size, size, C) float32, in place."""
        rows = cut.flatten(-2)
        torch.addcmul(self.shifts, rows, self.factors, out=rows)
        return cut
