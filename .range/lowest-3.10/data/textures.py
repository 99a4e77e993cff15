"""Synthetic textures whose classes differ in color and in brightness."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from data import Split
from model.keyed_random import hash32, image_keys, uniform

COLORS = {
    "red": (2.0, -1.0, -1.0),
    "green": (-1.0, 2.0, -1.0),
    "blue": (-1.0, -1.0, 2.0),
    "yellow": (1.0, 1.0, -2.0),
}
"""Directions in RGB that do not change R + G + B, so that a grey copy of the image lacks them."""
ANGLES = (0, 45, 90, 135)
WAVELENGTHS = 5.0, 12.0
"""Shortest and longest wavelength of the gratings, in pixels."""
NOISE = 12.0
"""Largest change of a pixel by noise."""


class Textures:
    """Images of a grey grating and a colored region.

    Sixteen classes: four angles of the grating (with random wavelength, phase and contrast) times
    four colors of the region (a soft disc with random place, size and strength). The two are
    independent, so a net that sees no color is right in one case of four, and so is a net that
    sees only color. An image depends on ``seed``, its split and its position alone.
    """

    decodes = False
    block = 0
    channels = 3

    def __init__(self, split: Split, length: int, size: int, seed: int = 0) -> None:
        self.classes: Sequence[str] = [
            f"{color}, {angle} degrees" for color in COLORS for angle in ANGLES
        ]
        self.height = self.width = size
        self.keys = image_keys(seed, 1 if split == "train" else 2, torch.arange(length))

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, size, size) uint8 and labels (B,) int64 at ``indices`` (B,)."""
        keys = self.keys[indices]
        labels = hash32(keys) % len(self.classes)
        chance = uniform(keys, 0, 7).T[:, :, None, None]
        light = self._grating(labels % len(ANGLES), chance[:3])
        color = self._region(labels // len(ANGLES), chance[3:])
        shape = len(keys), self.channels, self.height, self.width
        noise = uniform(keys, 1, math.prod(shape[1:])).view(shape) - 0.5
        images = (128 + light + color + 2 * NOISE * noise).clamp(0, 255)
        return images.to(torch.uint8, memory_format=torch.channels_last), labels

    def _pixels(self) -> tuple[Tensor, Tensor]:
        """Coordinates of the pixels: rows (H, 1) and columns (1, W)."""
        side = torch.arange(self.height, dtype=torch.float32)
        return side[:, None], side[None, :]

    def _grating(self, angle: Tensor, chance: Tensor) -> Tensor:
        """Gratings (B, 1, H, W) for ``angle`` (B,), positions in ``ANGLES``.

        ``chance`` (3, B, 1, 1) determines wavelength, phase and contrast.
        """
        y, x = self._pixels()
        turned = torch.tensor(ANGLES)[angle, None, None] * (math.pi / 180)
        shortest, longest = WAVELENGTHS
        wavelength = shortest * (longest / shortest) ** chance[0]
        wave = (x * turned.cos() + y * turned.sin()) / wavelength + chance[1]
        return ((30 + 40 * chance[2]) * torch.sin(2 * math.pi * wave))[:, None]

    def _region(self, color: Tensor, chance: Tensor) -> Tensor:
        """Regions (B, 3, H, W), whose channels add up to 0, for ``color`` (B,) in ``COLORS``.

        ``chance`` (4, B, 1, 1) determines row, column, radius and strength.
        """
        y, x = self._pixels()
        down, over = (self.height * (0.2 + 0.6 * place) for place in chance[:2])
        radius = self.height * (0.15 + 0.2 * chance[2])
        disc = torch.exp(-((y - down).square() + (x - over).square()) / radius**2)
        directions = torch.tensor(list(COLORS.values()))[color, :, None, None]
        return directions * ((15 + 15 * chance[3]) * disc)[:, None]
