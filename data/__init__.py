"""Where images come from, and how they become the network's input."""

from typing import Literal

Split = Literal["train", "test"]
