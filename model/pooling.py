"""Max pooling, Krizhevsky et al. 2012, section 3.4, with what stands before it."""

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing_extensions import override

from model.layers import ACTIVATIONS
from model.normalization import WINDOW, LocalResponseNorm
from model.variants import Activation
from native.compiler import NAMES, SOURCES, load_kernels, run_kernel

KERNELS = SOURCES / "pooling.cpp"
SIDE, STRIDE = 3, 2


class ActivatedPool(nn.Module):
    """Activation, local response normalisation if there is a ``norm``, and max pooling.

    Windows of ``side`` pixels, 2 apart: of 3 they overlap. With these and ReLU, all of it is one
    pass over memory on the CPU. (B, C, H, W) to (B, C, (H - side) // 2 + 1, (W - side) // 2 + 1),
    of the same layout; a map smaller than the window is pooled whole.
    """

    def __init__(
        self,
        norm: LocalResponseNorm | None = None,
        activation: Activation = "relu",
        side: int = SIDE,
    ) -> None:
        super().__init__()
        self.norm, self.activation, self.side = norm, activation, side

    @override
    def forward(self, x: Tensor) -> Tensor:
        if self.activation == "relu" and self.side == SIDE and _has_kernel(x):
            return _fused(x, self.norm)
        activate = ACTIVATIONS[self.activation]
        if self.norm is None:
            return activate(self.pool(x))  # they change places: a quarter of the numbers
        return self.pool(self.norm(activate(x)))

    def pool(self, x: Tensor) -> Tensor:
        """The maxima alone."""
        return F.max_pool2d(x, kernel_size=min(self.side, *x.shape[-2:]), stride=STRIDE)

    @override
    def extra_repr(self) -> str:
        return f"activation={self.activation}, side={self.side}"


class _Maps(ctypes.Structure):
    """As in pooling.cpp."""

    _fields_ = [
        ("batch", ctypes.c_int64),
        *((name, ctypes.c_int) for name in ("height", "width", "channels", "towers")),
        ("scale", ctypes.c_float),
        ("k", ctypes.c_float),
        ("normalize", ctypes.c_int),
        ("threads", ctypes.c_int),
    ]


def _has_kernel(x: Tensor) -> bool:
    """Whether the compiled kernels are there and take ``x``."""
    return (
        not torch.compiler.is_exporting()
        and x.device.type == "cpu"
        and x.dtype in NAMES
        and min(x.shape[-2:]) >= SIDE
        and x.is_contiguous(memory_format=torch.channels_last)
        and load_kernels(KERNELS) is not None
    )


@torch.compiler.disable
def _fused(x: Tensor, norm: LocalResponseNorm | None) -> Tensor:
    return _Fused.apply(x, norm)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: LocalResponseNorm | None) -> Tensor:
        batch, channels, height, width = x.shape
        maps = _Maps(
            *(batch, height, width, channels),
            towers=norm.towers if norm else 1,
            scale=norm.alpha / WINDOW if norm else 0.0,
            k=norm.k if norm else 1.0,
            normalize=norm is not None,
            threads=torch.get_num_threads(),
        )
        shape = batch, channels, (height - 1) // STRIDE, (width - 1) // STRIDE
        out = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        places = torch.empty_like(out, dtype=torch.uint8)  # of each maximum in its window
        run_kernel(KERNELS, "forward", [x, out, places], maps)
        ctx.save_for_backward(x, places)
        ctx.maps = maps
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, places = ctx.saved_tensors
        grad_x = torch.empty_like(x)
        grad = grad.contiguous(memory_format=torch.channels_last)
        run_kernel(KERNELS, "backward", [x, grad, places, grad_x], ctx.maps)
        return grad_x, None
