"""The precisions that a configuration can name. To add one, add a row."""

from typing import NamedTuple

import torch

from common.cpu import cpu_emulates


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
    """The name of a precision: for ``auto`` the fastest on this machine, else ``name``.

    A GPU is taken to compute in bf16: to ask for its model would take memory of it in every
    process. ``distributed.device.check_computes_in`` asks later.
    """
    if name != AUTO:
        return name
    return "bf16" if torch.cuda.is_available() or not cpu_emulates(torch.bfloat16) else "fp32"
