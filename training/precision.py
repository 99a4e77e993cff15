"""The precisions that a configuration can name. To add one, add a row."""

from typing import NamedTuple

import torch

from distributed.device import fastest_precision


class Precision(NamedTuple):
    """The numbers that the forward and the backward pass compute with.

    ``scales_loss`` is True where gradients would underflow without a factor on the loss. A step
    whose gradients overflow is then skipped (torch's GradScaler).
    """

    dtype: torch.dtype
    scales_loss: bool = False

    @property
    def weights(self) -> torch.dtype:
        """The dtype of the weights and of the logits: float32 at least."""
        return torch.promote_types(self.dtype, torch.float32)

    @property
    def is_mixed(self) -> bool:
        """True if the passes compute with other numbers than the weights have."""
        return self.dtype != self.weights


PRECISIONS = {
    "fp64": Precision(torch.float64),
    "fp32": Precision(torch.float32),
    "bf16": Precision(torch.bfloat16),
    "fp16": Precision(torch.float16, scales_loss=True),
}

AUTO = "auto"


def chosen_precision(name: str) -> str:
    """The name of a precision: what ``auto`` means on this machine, any other as it is."""
    return fastest_precision() if name == AUTO else name
