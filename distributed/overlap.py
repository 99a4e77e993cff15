"""A gather that hides its traffic behind the work of the layer that reads it."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from distributed.collectives import Ranks, all_gather_single, compute_dtype


@torch.compiler.disable
def gather_and_apply(layer: nn.Conv2d | nn.Linear, x: Tensor, ranks: Ranks) -> Tensor:
    """Equal ``layer(gather(x, ranks))``, with the traffic hidden behind the layer's work.

    A layer is linear in its inputs, so its output is a sum over the ranks' channels. Forward: the
    others' channels travel while the layer works on the own ones. Backward: the gradients of the
    others' channels are computed first, and travel while those of the own channels and of the
    weight are computed.
    """
    dtype = compute_dtype(x)
    bias = None if layer.bias is None else layer.bias.to(dtype)
    operation = _Convolution(layer) if isinstance(layer, nn.Conv2d) else _Product()
    return _GatherAndApply.apply(x.to(dtype), layer.weight.to(dtype), bias, operation, ranks)


class _Product:
    """A linear layer's operation on some of its inputs, and its gradients."""

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def input_gradient(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return grad @ weight

    def weight_gradient(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return grad.T @ x


class _Convolution:
    """A convolution's, without groups or dilation."""

    def __init__(self, layer: nn.Conv2d) -> None:
        self.stride, self.padding = layer.stride, layer.padding

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding)

    def input_gradient(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return self._gradient(grad, x, weight, 0)

    def weight_gradient(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return self._gradient(grad, x, weight, 1)

    def _gradient(self, grad: Tensor, x: Tensor, weight: Tensor, which: int) -> Tensor:
        wanted = [which == place for place in range(3)]
        gradients = torch.ops.aten.convolution_backward(
            grad, x, weight, None, self.stride, self.padding, (1, 1), False, (0, 0), 1, wanted
        )
        return gradients[which]


class _GatherAndApply(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        operation: _Product | _Convolution,
        ranks: Ranks,
    ) -> Tensor:
        timer = ranks.timer
        with timer.part("activation_communication"):
            own = x.movedim(1, -1).contiguous()  # (B, …, C)
            received = own.new_empty(ranks.size, *own.shape)  # (n, B, …, C)
            started = ranks.start(all_gather_single, received.flatten(0, 1), own)
        weights = weight.chunk(ranks.size, 1)  # n of (outputs, C, …)
        out = operation.apply(x, weights[ranks.index], bias)
        with timer.part("activation_communication"):
            started.wait()
        parts = received.movedim(-1, 2)  # (n, B, C, …)
        for rank in ranks.others:
            out += operation.apply(parts[rank], weights[rank], None)
        ctx.save_for_backward(parts, weight)
        ctx.operation, ctx.ranks, ctx.has_bias = operation, ranks, bias is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        parts, weight = ctx.saved_tensors  # (n, B, C, …), (outputs, n·C, …)
        operation, ranks, timer = ctx.operation, ctx.ranks, ctx.ranks.timer
        weights = weight.chunk(ranks.size, 1)

        def gradient_of(rank: int) -> Tensor:
            return operation.input_gradient(grad, parts[rank], weights[rank])  # (B, C, …)

        to_send = torch.zeros_like(parts.movedim(2, -1))  # (n, B, …, C)
        for rank in ranks.others:
            to_send[rank] = gradient_of(rank).movedim(1, -1)
        with timer.part("activation_communication"):
            received = torch.empty_like(to_send)
            started = ranks.start(dist.all_to_all_single, received, to_send)
        grad_x = gradient_of(ranks.index)
        whole = torch.cat(parts.unbind(), 1)  # (B, n·C, …)
        grad_weight = operation.weight_gradient(grad, whole, weight)
        grad_bias = grad.sum((0, *range(2, grad.dim()))) if ctx.has_bias else None
        with timer.part("activation_communication"):
            started.wait()
        grad_x += received.sum(0).movedim(-1, 1)
        return grad_x, grad_weight, grad_bias, None, None
