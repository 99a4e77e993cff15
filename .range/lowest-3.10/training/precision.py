"""The precisions that a configuration can name. To add one, add a row."""

from typing import NamedTuple

import torch


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
