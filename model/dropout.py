"""Dropout whose masks depend on the image, not on who computes them."""

import torch
from torch import Tensor, nn
from typing_extensions import override

from model.keyed_random import random_bits


class Dropout(nn.Module):
    """Zero each unit with probability ``p`` and scale the others by 1 / (1 - p).

    ``units`` are the places in the full layer of the columns computed here, so the towers of a
    replica slice one common mask. ``stream`` tells this layer's masks from another's.
    """

    def __init__(self, p: float, units: range, stream: int) -> None:
        super().__init__()
        self.p, self.units, self.stream = p, units, stream

    def forward(self, x: Tensor, keys: Tensor | None) -> Tensor:
        """(B, N) to (B, N); the identity without ``keys`` (B,), in evaluation, and with p = 0."""
        if keys is None or not self.training or self.p == 0:
            return x
        units = torch.arange(self.units.start, self.units.stop, device=x.device)
        kept = random_bits(keys, self.stream, units) >= self.p * 2.0**32
        return x * kept / (1 - self.p)

    @override
    def extra_repr(self) -> str:
        return f"p={self.p}, stream={self.stream}"
