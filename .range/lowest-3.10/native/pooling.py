"""ReLU, local response normalisation and max pooling in one pass over memory, on the CPU."""

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from native.compiler import NAMES, SOURCES, load_kernels, run_kernel

KERNELS = SOURCES / "pooling.cpp"
SIDE, STRIDE = 3, 2
"""Side and stride of the pooling windows, in pixels, as in pooling.cpp."""


class Norm(NamedTuple):
    """b = a / (k + scale * sum of a² over 5 neighbouring channels) ** 0.75 within each tower."""

    towers: int
    scale: float
    k: float


class _Maps(ctypes.Structure):
    """The struct Maps of pooling.cpp."""

    _fields_ = [
        ("batch", ctypes.c_int64),
        *((name, ctypes.c_int) for name in ("height", "width", "channels", "towers")),
        ("scale", ctypes.c_float),
        ("k", ctypes.c_float),
        ("normalize", ctypes.c_int),
        ("threads", ctypes.c_int),
    ]


def can_fuse(x: Tensor, activation: str, side: int) -> bool:
    """True if a compiled kernel exists for maps (B, C, H, W), this activation and pooling side."""
    return (
        (activation, side) == ("relu", SIDE)
        and not torch.compiler.is_exporting()
        and x.device.type == "cpu"
        and x.dtype in NAMES
        and min(x.shape[-2:]) >= SIDE
        and x.is_contiguous(memory_format=torch.channels_last)
        and load_kernels(KERNELS) is not None
    )


@torch.compiler.disable
def relu_norm_pool(x: Tensor, norm: Norm | None) -> Tensor:
    """Max-pool the normalised ReLU of ``x``; without ``norm``, the ReLU itself.

    (B, C, H, W) to (B, C, (H - 1) // 2, (W - 1) // 2), both in channels-last memory.
    """
    return _ReluNormPool.apply(x, norm)


class _ReluNormPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Norm | None) -> Tensor:
        batch, channels, height, width = x.shape
        towers, scale, k = norm or Norm(towers=1, scale=0.0, k=1.0)
        maps = _Maps(
            *(batch, height, width, channels, towers, scale, k),
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
