"""Local response normalisation, Krizhevsky et al. 2012, section 3.3."""

import ctypes
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing_extensions import override

from native.compiler import NAMES, SOURCES, load_kernels, run_kernel

KERNELS = SOURCES / "normalization.cpp"
WINDOW = 5


class LocalResponseNorm(nn.Module):
    """b = a / (k + alpha/5 * sum of a² over 5 neighbouring channels) ** 0.75.

    As in the authors' code (and ``nn.LocalResponseNorm``), alpha is divided by the window. The
    printed formula does not divide. Window and exponent are the paper's, fixed: the fast forms
    below live on them.

    ``towers`` groups of channels are normalised apart: at the border between two towers a channel
    never sees the other's. Input and output (B, C, H, W), of the same layout.
    """

    def __init__(self, towers: int = 1, alpha: float = 1e-4, k: float = 2.0) -> None:
        super().__init__()
        self.towers, self.alpha, self.k = towers, alpha, k

    @override
    def forward(self, x: Tensor) -> Tensor:
        settings = Settings(self.towers, self.alpha / WINDOW, self.k)
        if _has_kernel(x, self.towers):
            return _fused(x, settings)
        return _Plain.apply(x, settings)

    @override
    def extra_repr(self) -> str:
        return f"towers={self.towers}, alpha={self.alpha}, k={self.k}"


class Settings(NamedTuple):
    """Of a normalisation: b = a / (k + scale * sum of a²) ** 0.75 within each tower."""

    towers: int
    scale: float
    k: float


# --- In plain PyTorch -----------------------------------------------------------------------------


def window_sum(x: Tensor, towers: int, bias: float = 0.0) -> Tensor:
    """``bias`` plus the sum over neighbouring channels of the same tower.

    A 1×1 convolution with a band: one matrix product in place of five passes over memory,
    whatever the layout. (B, C, H, W) to the same shape and dtype.
    """
    width = x.shape[1] // towers
    channel = torch.arange(width, device=x.device)
    band = (channel[:, None] - channel[None, :]).abs() <= WINDOW // 2
    weight = band.to(x.dtype).repeat(towers, 1)[:, :, None, None]
    return F.conv2d(x, weight, x.new_full((x.shape[1],), bias), groups=towers)


def _power(q: Tensor) -> Tensor:
    """The power -0.75 of positive numbers: two roots are faster than a power."""
    root = q.rsqrt()
    return root.sqrt().mul_(root)


class _Plain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, settings: Settings) -> Tensor:
        scaled = x * settings.scale**0.5  # before it is squared: x² is beyond float16's range
        q = window_sum(scaled.mul_(scaled), settings.towers, settings.k)
        ctx.save_for_backward(x, q)
        ctx.settings = settings
        return _power(q).mul_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, q = ctx.saved_tensors
        through = grad * _power(q)
        sums = window_sum((through * x).div_(q), ctx.settings.towers)
        return through.addcmul_(x, sums, value=-1.5 * ctx.settings.scale), None


# --- In one pass over memory, on the CPU ----------------------------------------------------------


class _Norm(ctypes.Structure):
    """As in normalization.cpp."""

    _fields_ = [
        ("outer", ctypes.c_int64),
        ("inner", ctypes.c_int64),
        ("channels", ctypes.c_int),
        ("scale", ctypes.c_float),
        ("k", ctypes.c_float),
        ("threads", ctypes.c_int),
    ]


def _has_kernel(x: Tensor, towers: int) -> bool:
    """Whether the compiled kernels are there and take ``x``."""
    if torch.compiler.is_exporting() or x.device.type != "cpu" or x.dtype not in NAMES:
        return False
    kernels = load_kernels(KERNELS)
    return kernels is not None and x.shape[1] // towers <= kernels.most_channels()


@torch.compiler.disable
def _fused(x: Tensor, settings: Settings) -> Tensor:
    return _Fused.apply(x, settings)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, settings: Settings) -> Tensor:
        x = x.contiguous(memory_format=_layout(x))
        ctx.save_for_backward(x)
        ctx.settings = settings
        return _run("forward", settings, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return _run("backward", ctx.settings, x, grad.contiguous(memory_format=_layout(x))), None


def _layout(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _run(name: str, settings: Settings, x: Tensor, *others: Tensor) -> Tensor:
    """A kernel's output for maps of one shape, dtype and dense layout, which are its output's."""
    batch, channels, height, width = x.shape
    towers, pixels = settings.towers, height * width
    last = _layout(x) is torch.channels_last
    norm = _Norm(
        outer=batch * towers * (pixels if last else 1),
        inner=1 if last else pixels,
        channels=channels // towers,
        scale=settings.scale,
        k=settings.k,
        threads=torch.get_num_threads(),
    )
    out = torch.empty_like(x)
    run_kernel(KERNELS, name, [x, *others, out], norm)
    return out
