"""Initial values: drawn as full tensors, the same for every placement, and sliced."""

import torch
from torch import Tensor, nn

from model.alexnet import AlexNet

_UNIT_BIAS = ("conv2", "conv4", "conv5", "fc6", "fc7")
_WIDE_STD = ("conv3", "conv4", "conv5")


def _gaussian(layer: str, kind: str, full: Tensor, std: float, draw: torch.Generator) -> None:
    if kind == "bias":
        nn.init.constant_(full, 1.0 if layer in _UNIT_BIAS else 0.0)
    else:
        nn.init.normal_(full, std=std, generator=draw)


def released(layer: str, kind: str, full: Tensor, fan_in: int, draw: torch.Generator) -> None:
    """The authors' released configuration of 2012 (layers-145.cfg)."""
    _gaussian(layer, kind, full, 0.03 if layer in _WIDE_STD else 0.01, draw)


def text(layer: str, kind: str, full: Tensor, fan_in: int, draw: torch.Generator) -> None:
    """The paper's text, section 5: every weight from N(0, 0.01²)."""
    _gaussian(layer, kind, full, 0.01, draw)


def default(layer: str, kind: str, full: Tensor, fan_in: int, draw: torch.Generator) -> None:
    """PyTorch's defaults: uniform within 1/sqrt(fan in)."""
    nn.init.uniform_(full, -(fan_in**-0.5), fan_in**-0.5, generator=draw)


def xavier(layer: str, kind: str, full: Tensor, fan_in: int, draw: torch.Generator) -> None:
    """D2L's choice: Xavier uniform weights, PyTorch's biases."""
    if kind == "bias":
        default(layer, kind, full, fan_in, draw)
    else:
        nn.init.xavier_uniform_(full, generator=draw)


def he(layer: str, kind: str, full: Tensor, fan_in: int, draw: torch.Generator) -> None:
    """He et al. 2015: weights from N(0, 2 / fan in), which keeps a ReLU net's scale; no biases."""
    if kind == "bias":
        nn.init.zeros_(full)
    else:
        nn.init.normal_(full, std=(2 / fan_in) ** 0.5, generator=draw)


SCHEMES = {"released": released, "text": text, "xavier": xavier, "he": he, "default": default}
"""Each fills ``full``, a layer's full tensor of a kind ("weight" or "bias"), from ``draw``."""


@torch.no_grad()
def initialize(model: AlexNet, seed: int, scheme: str | None = None) -> None:
    """Fill every parameter from ``seed``, by a scheme of the table or the variant's own."""
    draw_values = SCHEMES[scheme or model.variant.init]
    draw = torch.Generator().manual_seed(seed)
    for layer, module in model.named_children():
        fan_in = 0
        for kind, parameter in module.named_parameters():
            name = f"{layer}.{kind}"
            full = torch.empty(model.placement.full_shape(name, parameter.shape))
            if kind == "weight":
                fan_in = full[0].numel()
            draw_values(layer, kind, full, fan_in, draw)
            parameter.copy_(model.placement.shard(name, full))


def initial_kernels(shape: torch.Size, seed: int, scheme: str) -> Tensor:
    """The full weight of conv1 that ``initialize`` draws: its first values."""
    full = torch.empty(shape)
    draw = torch.Generator().manual_seed(seed)
    SCHEMES[scheme]("conv1", "weight", full, full[0].numel(), draw)
    return full


@torch.no_grad()
def fill(model: AlexNet, tensors: dict[str, Tensor]) -> None:
    """Set the model's slices of the named parameters from their full ``tensors``."""
    for name, tensor in tensors.items():
        model.get_parameter(name).copy_(model.placement.shard(name, tensor))
