"""Mean and covariance of pixels, in whole numbers: exact, in whatever order images are added."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data.packed.index import Channels

MOST_IMAGES = 2**24
"""So many times 255 fit into 32 bits."""

Array = np.ndarray[Any, Any]
Matrix = list[list[int]]


class Sums:
    """Of images (size, size, 3) uint8: at each place, and of the products of each two channels."""

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
    """Of ``pixels`` pixels, from the sums of their channels and of the channels' products.

    Each number is rounded once: Python's quotient of two whole numbers is the nearest there is.
    """

    def covariance(i: int, j: int) -> float:
        return (pixels * products[i][j] - sums[i] * sums[j]) / pixels**2

    def channels(*values: float) -> Channels:
        red, green, blue = values
        return red, green, blue

    rows = [channels(*(covariance(i, j) for j in range(3))) for i in range(3)]
    return channels(*(total / pixels for total in sums)), (rows[0], rows[1], rows[2])
