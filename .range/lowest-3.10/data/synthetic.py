"""Synthetic images, for tests and for timing without files."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from data import Split

NOISE_IMAGES = 256


class Synthetic:
    """Random images of ``classes`` classes: a smooth pattern for each class, under pixel noise.

    An image is the pattern of its class plus one of ``NOISE_IMAGES`` noise images, so reading is
    cheap and memory does not grow with ``length``. ``seed`` determines everything. Both splits
    share the patterns and the noise images, and combine them differently.
    """

    decodes = False
    block = 0

    def __init__(
        self,
        split: Split,
        length: int,
        *,
        classes: int,
        channels: int,
        height: int,
        width: int,
        seed: int = 0,
    ) -> None:
        self.classes: Sequence[str] = [f"class {number}" for number in range(classes)]
        self.channels, self.height, self.width = channels, height, width
        shared = torch.Generator().manual_seed(seed)
        coarse = torch.rand(classes, channels, 4, 4, generator=shared)
        patterns = (F.interpolate(coarse, (height, width), mode="bilinear") * 128).byte()
        noise_shape = (NOISE_IMAGES, channels, height, width)
        noise = torch.randint(128, noise_shape, generator=shared, dtype=torch.uint8)
        self.patterns, self.noise = (
            each.contiguous(memory_format=torch.channels_last) for each in (patterns, noise)
        )
        own = torch.Generator().manual_seed(seed + (1 if split == "train" else 2))
        self.labels = torch.randint(classes, (length,), generator=own)
        self.noises = torch.randint(NOISE_IMAGES, (length,), generator=own)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) uint8 and labels (B,) int64 at ``indices`` (B,)."""
        labels = self.labels[indices]
        shape = (len(indices), self.channels, self.height, self.width)
        images = torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last)
        parts = zip(images, labels.tolist(), self.noises[indices].tolist(), strict=True)
        for image, label, noise in parts:
            torch.add(self.patterns[label], self.noise[noise], out=image)
        return images, labels
