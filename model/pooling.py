"""Max pooling, Krizhevsky et al. 2012, section 3.4, with the layers before it."""

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from model.layers import ACTIVATIONS
from model.normalization import LocalResponseNorm
from native.fusion import compiled, fuses
from native.pooling import Norm, can_fuse, relu_norm_pool

STRIDE = 2


class ActivatedPool(nn.Module):
    """Activation, local response normalisation if there is a ``norm``, and max pooling.

    Windows of ``side`` pixels, 2 apart: of 3 they overlap. (B, C, H, W) to
    (B, C, (H - side) // 2 + 1, (W - side) // 2 + 1), of the same layout; a map smaller than the
    window is pooled whole.
    """

    def __init__(
        self, norm: LocalResponseNorm | None = None, activation: str = "relu", side: int = 3
    ) -> None:
        super().__init__()
        self.norm, self.activation, self.side = norm, activation, side

    def plain(self, x: Tensor) -> Tensor:
        """Compute one layer after the other, in PyTorch."""
        activate = ACTIVATIONS[self.activation]
        if self.norm is None:
            # No activation falls, so it may come after the maximum: on a quarter of the numbers.
            return activate(self.pool(x))
        return self.pool(self.norm(activate(x)))

    def fusible(self, x: Tensor) -> Tensor:
        """Compute the same in elementwise operations, which torch.compile makes one chain of."""
        x = ACTIVATIONS[self.activation](x)
        return self.pool(x if self.norm is None else self.norm.in_shifts(x))

    def pool(self, x: Tensor) -> Tensor:
        """The maximum of each window."""
        return F.max_pool2d(x, kernel_size=min(self.side, *x.shape[-2:]), stride=STRIDE)

    @override
    def forward(self, x: Tensor) -> Tensor:
        if can_fuse(x, self.activation, self.side):
            norm = self.norm
            return relu_norm_pool(x, Norm(norm.towers, norm.scale, norm.k) if norm else None)
        if fuses(x.device):
            return compiled(self.fusible)(x)
        return self.plain(x)

    @override
    def extra_repr(self) -> str:
        return f"activation={self.activation}, side={self.side}"
