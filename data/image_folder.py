"""Images in folders named after their classes, as in torchvision's ImageFolder."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from data import Split
from data.decoding import decode
from data.listing import find_split, length_of, list_samples


class ImageFolder:
    """RGB images of ``folder``/train/CLASS, or of test/CLASS, val/CLASS or validation/CLASS.

    Each is resized so that its shorter side has ``size`` pixels, then the central square is
    cropped. The classes are those of train/ where that exists.

    Images may lie in subfolders of their class; hidden files and folders are passed over. Links are
    followed, also out of ``folder``, but no folder is read twice for one class.

    Raises ReportedError when a folder is missing, unreadable or reached twice, a class has no
    image, or training and test classes differ.
    """

    channels = 3
    decodes = True
    block = 0

    def __init__(self, split: Split, folder: Path, size: int) -> None:
        self.height = self.width = size
        self.root, names = find_split(folder, split)
        self.classes: Sequence[str] = names
        self.samples = list_samples(self.root, names)

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Decode images (B, 3, size, size) uint8, with labels (B,) int64, at ``indices`` (B,).

        Raises ReportedError for a file that is not an image or exceeds PIL's limit of pixels.
        """
        samples = [self.samples[index] for index in indices.tolist()]
        shape = (len(samples), self.channels, self.height, self.width)
        images = torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last)
        for image, (path, _) in zip(images, samples, strict=True):
            image.copy_(decode(path, self.height))
        return images, torch.tensor([label for _, label in samples], dtype=torch.int64)

    def fingerprint(self) -> str:
        """A sum of the images' places in the folder of the split, and of their lengths.

        Raises ReportedError for what is not a file.
        """
        total, root = hashlib.sha256(), f"{self.root}{os.sep}"
        for path, _ in self.samples:
            total.update(os.fsencode(f"{path.removeprefix(root)}\0{length_of(path)}\0"))
        return total.hexdigest()
