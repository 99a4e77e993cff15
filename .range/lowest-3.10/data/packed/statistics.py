"""Mean and covariance of pixels in whole numbers: exact, so independent of the images' order."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data.packed.index import Channels

MOST_IMAGES = 2**24
"""Limit for a shard: this many times 255 fits into 32 bits."""

Array = np.ndarray[Any, Any]
Matrix = list[list[int]]


class Sums:
    """Sums over images (size, size, 3) uint8.

    ``places`` (size, size, 3) are the sums of the pixels at each place, ``products`` (3, 3) those
    of the products of each two channels over all places.
    """

    def __init__(self, size: int) -> None:
        self.places: Array = np.zeros((size, size, 3), np.uint32)
        self.products: Matrix = [[0] * 3 for _ in range(3)]

    def add(self, image: Array) -> None:
        """Add an image."""
        self.places += image
        # Doubles hold every whole number up to 2**53, far above 255**2 times the pixels.
        pixels = image.reshape(-1, 3).astype(np.float64)
        self.products = added(self.products, (pixels.T @ pixels).astype(np.int64).tolist())


def added(one: Matrix, other: Matrix) -> Matrix:
    """The sum of two 3 × 3 matrices."""
    return [
        [a + b for a, b in zip(row, column, strict=True)]
        for row, column in zip(one, other, strict=True)
    ]


def mean_and_covariance(
    sums: Sequence[int], products: Matrix, pixels: int
) -> tuple[Channels, tuple[Channels, Channels, Channels]]:
    """Mean (3,) and covariance (3, 3) of ``pixels`` pixels, from the sums of their channels.

    Each number is rounded once, since Python divides whole numbers to the nearest double.
    """

    def covariance(i: int, j: int) -> float:
        return (pixels * products[i][j] - sums[i] * sums[j]) / pixels**2

    def channels(*values: float) -> Channels:
        red, green, blue = values
        return red, green, blue

    rows = [channels(*(covariance(i, j) for j in range(3))) for i in range(3)]
    return channels(*(total / pixels for total in sums)), (rows[0], rows[1], rows[2])
