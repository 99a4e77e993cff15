"""Data sets: from files to batches of uint8 images, and to the network's input."""

from typing import Literal

Split = Literal["train", "test"]
