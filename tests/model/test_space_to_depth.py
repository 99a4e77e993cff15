"""The folded convolution against PyTorch's strided one."""

import pytest
import torch
from torch import nn

from model.layers import SpaceToDepthConv2d, space_to_depth


@pytest.mark.parametrize("side", [64, 96, 223, 224, 227])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(11, 4, 2), (11, 4, 1), (7, 2, 3)])
@pytest.mark.parametrize("channels", [1, 3])
def test_equals_a_strided_convolution(side, kernel, stride, padding, channels):
    plain = nn.Conv2d(channels, 8, kernel, stride, padding).double()
    folded = SpaceToDepthConv2d(channels, 8, kernel, stride, padding).double()
    folded.load_state_dict(plain.state_dict())
    images = torch.randn(2, channels, side, side + 5, dtype=torch.float64)
    out = plain(images)
    torch.testing.assert_close(folded(images), out)
    grad = torch.randn_like(out)
    out.backward(grad)
    folded(images).backward(grad)
    torch.testing.assert_close(folded.weight.grad, plain.weight.grad)
    assert folded.bias is not None
    assert plain.bias is not None
    torch.testing.assert_close(folded.bias.grad, plain.bias.grad)


def test_fold_is_channels_last_and_loses_nothing():
    x = torch.arange(2 * 3 * 8 * 12).view(2, 3, 8, 12)
    folded = space_to_depth(x, 4)
    assert folded.shape == (2, 48, 2, 3)
    assert folded.is_contiguous(memory_format=torch.channels_last)
    assert folded[1, :, 1, 2].sort().values.tolist() == (
        x[1, :, 4:8, 8:12].flatten().sort().values.tolist()
    )
