"""Parts of a data set: images held out to choose settings by, and fewer images to train on."""

import torch
from torch import Tensor

from common.errors import ReportedError
from data.datasets import Dataset


class Part:
    """The images of ``whole`` at ``positions`` (N,), in this order, as a data set."""

    def __init__(self, whole: Dataset, positions: Tensor, name: str) -> None:
        self.whole, self.positions, self.name = whole, positions, name
        self.classes, self.channels = whole.classes, whole.channels
        self.height, self.width = whole.height, whole.width
        self.decodes, self.block = whole.decodes, whole.block

    def __len__(self) -> int:
        return len(self.positions)

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) uint8 and labels (B,) int64 at ``indices`` (B,)."""
        return self.whole.read(self.positions[indices])

    def fingerprint(self) -> str:
        """That of the whole, with what part of it this is."""
        return f"{self.name} of {self.whole.fingerprint()}"


def hold_out(whole: Dataset, count: int) -> tuple[Part, Part]:
    """``whole`` without ``count`` images, and these: a random choice, the same in every run.

    Raises ReportedError if none would be left.
    """
    if count >= len(whole):
        raise ReportedError(
            f"data.held_out is {count:,}, and there are {len(whole):,} training images: hold out "
            "fewer"
        )
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    held, rest = (part.sort().values for part in order.split([count, len(whole) - count]))
    return Part(whole, rest, f"all but {count:,}"), Part(whole, held, f"{count:,} held out")


def draw(whole: Dataset, count: int) -> Part:
    """``count`` images of ``whole``: a random choice, the same in every run.

    Raises ReportedError if there are fewer.
    """
    if count > len(whole):
        raise ReportedError(
            f"data.train_images is {count:,}, and there are {len(whole):,}: ask for fewer"
        )
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(1))
    return Part(whole, order[:count].sort().values, f"{count:,}")
