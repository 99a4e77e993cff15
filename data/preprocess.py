"""From stored images to the network's input, a batch at a time and on the device."""

import ctypes
import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import ReportedError
from model.keyed_random import normal, uniform
from native.compiler import NAMES, SOURCES, load_kernels, run_kernel

KERNELS = SOURCES / "crop.cpp"
WINDOW_STREAM, COLOR_STREAM = 0, 1
"""Keep these draws apart from each other and from those of the network's layers."""


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
    """Resize, crop, mirror, colour and standardize images.

    Images are resized to squares of ``resize`` pixels and cut to ``size``. In training the place
    of the cut is random and, with ``mirror``, half of the images are flipped left to right; both
    follow from each image's key. In evaluation a view is cut, by default the centre.

    ``mean`` and ``std`` hold one number per channel, in units of the pixels (0 to 255).
    ``mean_image`` (resize, resize, C), of which the centre is subtracted wherever an image was
    cut, takes the place of ``mean``. ``colors`` (C, C) are changes of colour, of which each
    training image gets a normally distributed multiple. The output is of ``dtype``; so is a resized
    image before it is standardized, where no kernel of crop.cpp is at hand; all else is float32.

    Raises ReportedError when ``resize`` is below ``size``, or ``mean``, ``std`` and the images do
    not fit.
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
        if resize < size:
            raise ReportedError(
                f"images resized to {resize} pixels cannot be cut to {size}: make data.resize at "
                "least data.size"
            )
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise ReportedError(
                "data.mean and data.std need one number per channel, each deviation a "
                f"positive one, and are {list(mean)} and {list(std)}"
            )
        self.size, self.resize, self.mirror, self.dtype = size, resize, mirror, dtype
        self.channels, self.mean_image = len(mean), mean_image
        start = (resize - size) // 2
        centre = slice(start, start + size)
        subtracted = torch.tensor(mean) if mean_image is None else mean_image[centre, centre]
        # x / std - mean / std, for each channel or each number of the cut.
        self.factors = 1 / torch.tensor(std, dtype=torch.float32)
        self.shifts = -subtracted.float() * self.factors
        self.colors = None if colors is None else colors.float() * self.factors

    def __call__(self, images: Tensor, keys: Tensor | None = None, view: View = CENTRE) -> Tensor:
        """Images (B, C, h, w) uint8 to (B, C, size, size) in channels-last memory.

        ``keys`` (B,) int64 make it training's; without them it is evaluation's ``view``. What
        becomes of an image depends on it and on its key alone, not on the rest of the batch.

        Raises ReportedError when C is not the number of means.
        """
        if images.shape[1] != self.channels:
            raise ReportedError(
                f"the images have {images.shape[1]} channels, and the mean and the deviation "
                f"{self.channels}: give one number for each channel"
            )
        device = images.device
        self.factors, self.shifts = self.factors.to(device), self.shifts.to(device)
        windows, colors = self._windows(images, keys, view), self._color_changes(images, keys)
        if device.type == "cpu" and self.dtype in NAMES and load_kernels(KERNELS) is not None:
            out = self._cut(images, windows, colors)
        elif images.shape[2:] != (self.resize, self.resize):
            out = self._resample(images, windows, colors)
        elif device.type != "cpu":
            out = self._gather(images, windows, colors)
        else:
            out = self._cut_each(images, windows, colors)
        return out.contiguous(memory_format=torch.channels_last)

    def _windows(self, images: Tensor, keys: Tensor | None, view: View = CENTRE) -> Tensor:
        """Where each image is cut, (B, 3) int64: top, left, and whether it is flipped."""
        margin = self.resize - self.size
        if keys is None:
            corner = int(view.top * margin), int(view.left * margin)
            window = torch.tensor([*corner, int(view.mirrored)], device=images.device)
            return window.expand(len(images), 3)
        draws = uniform(keys, WINDOW_STREAM, 3)
        corners = (draws[:, :2] * (margin + 1)).long()
        return torch.cat([corners, (draws[:, 2:] < 0.5 * self.mirror).long()], 1)

    def _color_changes(self, images: Tensor, keys: Tensor | None) -> Tensor:
        """What is added to each image after it was standardized, (B, C)."""
        if keys is None or self.colors is None:
            return torch.zeros(len(images), self.channels, device=images.device)
        self.colors = self.colors.to(images.device)
        return normal(keys, COLOR_STREAM, self.channels) @ self.colors

    def _cut(self, images: Tensor, windows: Tensor, colors: Tensor) -> Tensor:
        """Resize, cut, mirror, standardize and convert, writing to memory once."""
        images = images.contiguous(memory_format=torch.channels_last)
        batch, channels, height, width = images.shape
        shape = batch, channels, self.size, self.size
        out = torch.empty(shape, dtype=self.dtype, memory_format=torch.channels_last)
        rows = 1 if self.mean_image is None else self.size
        shifts = self.shifts.expand(rows, self.size, channels).contiguous()
        numbers = height, width, channels, self.resize, self.size, rows, torch.get_num_threads()
        tensors = [out, images, windows.contiguous(), self.factors, shifts, colors.contiguous()]
        tables = _tables(height, width, channels, self.resize)
        run_kernel(KERNELS, "cut", [*tensors, *tables], _Cut(batch, *numbers))
        return out

    def _resample(self, images: Tensor, windows: Tensor, colors: Tensor) -> Tensor:
        """The same of images that are resized, no further than the window: as matrix products.

        Rows and columns are each interpolated by a matrix, of which a window keeps some rows.
        """
        x = images.to(self.dtype)
        down, across = (
            _interpolation(side, self.resize, device=x.device).to(self.dtype)
            for side in images.shape[2:]
        )
        top, left, flip = windows.unbind(1)
        x = torch.where(flip.bool()[:, None, None, None], x.flip(3), x)
        steps = torch.arange(self.size, device=x.device)
        if self.resize > self.size:
            left = torch.where(flip.bool(), self.resize - self.size - left, left)
            rows, columns = (start[:, None, None] + steps for start in (top, left))
        else:
            rows = columns = steps
        x = down[rows] @ (x @ across[columns].mT)
        x = self._standardized(x.permute(0, 2, 3, 1), colors[:, None, None])
        return x.to(self.dtype).permute(0, 3, 1, 2)

    def _cut_each(self, images: Tensor, windows: Tensor, colors: Tensor) -> Tensor:
        """The same of images as stored, one by one: what the processor's cache holds is fast."""
        out = images.new_empty(len(images), self.size, self.size, self.channels, dtype=self.dtype)
        pixels = images.permute(0, 2, 3, 1)
        parts = zip(pixels, out, windows.tolist(), colors, strict=True)
        for image, target, (top, left, flip), color in parts:
            window = image[top : top + self.size, left : left + self.size]
            target.copy_(self._standardized(window.flip(1) if flip else window, color))
        return out.permute(0, 3, 1, 2)

    def _gather(self, images: Tensor, windows: Tensor, colors: Tensor) -> Tensor:
        """The same at once: a GPU would spend its time on starting many small copies."""
        top, left, flip = windows[:, :, None].unbind(1)
        steps = torch.arange(self.size, device=images.device)
        rows, columns = top + steps, left + torch.where(flip.bool(), steps.flip(0), steps)
        image = torch.arange(len(images), device=images.device)[:, None, None]
        cut = images.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]
        return self._standardized(cut, colors[:, None, None]).to(self.dtype).permute(0, 3, 1, 2)

    def _standardized(self, pixels: Tensor, colors: Tensor) -> Tensor:
        """(…, C) to float32; ``colors`` (…, C) are added."""
        return torch.addcmul(self.shifts + colors, pixels.float(), self.factors)


_CUT_NUMBERS = ("height", "width", "channels", "resize", "size", "shift_rows", "threads")


class _Cut(ctypes.Structure):
    """As in crop.cpp."""

    _fields_ = [
        ("batch", ctypes.c_int64),
        *((name, ctypes.c_int) for name in _CUT_NUMBERS),
    ]


@functools.cache
def _interpolation(stored: int, resize: int, device: torch.device) -> Tensor:
    """What bilinear interpolation does to a row of pixels, as a (resize, stored) matrix.

    Where it shrinks, it averages ("antialias").
    """
    each = torch.eye(stored, device=device)[None, None]
    shrinks = stored > resize
    return F.interpolate(each, (resize, stored), mode="bilinear", antialias=shrinks)[0, 0]


@functools.cache
def _tables(height: int, width: int, channels: int, resize: int) -> list[Tensor]:
    """What crop.cpp interpolates with, empty where it need not."""
    if height == width == resize:
        return [torch.empty(0)] * 4
    cpu = torch.device("cpu")
    down, across = (_interpolation(side, resize, device=cpu) for side in (height, width))
    rows, columns = _bands(down), channels * _bands(across).repeat_interleave(channels, 0)
    return [down, torch.kron(across.T.contiguous(), torch.eye(channels)), rows, columns]


def _bands(matrix: Tensor) -> Tensor:
    """Where the numbers other than 0 begin and end in each row of ``matrix``, as (rows, 2)."""
    present = (matrix != 0).int()
    ends = matrix.shape[1] - present.flip(1).argmax(1)
    return torch.stack([present.argmax(1), ends], 1)
