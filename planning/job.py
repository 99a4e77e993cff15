"""What is to be trained, wherever it is placed."""

from dataclasses import dataclass

from planning.formulas import Net


@dataclass(frozen=True)
class Job:
    """A net trained on a global ``batch``, with bytes of an activation and a gradient that travel.

    ``scheme`` is the hybrid's. With ``overlaps`` traffic travels while layers compute.
    """

    net: Net
    batch: int
    activation_size: int = 4
    gradient_size: int = 4
    scheme: str = "a"
    overlaps: bool = True
