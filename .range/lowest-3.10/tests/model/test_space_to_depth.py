"""The convolution on blocks of pixels against PyTorch's strided one."""

import pytest
import torch
from torch import nn

from model.layers import SpaceToDepthConv2d, make_conv, space_to_depth
from model.variants import Window


@pytest.mark.parametrize("side", [64, 96, 223, 224, 227])
@pytest.mark.parametrize(
    "window", [Window(11, 4, 2), Window(11, 4), Window(7, 2, 1), Window(7, 2, 3)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_equals_a_strided_convolution(side, window, channels):
    plain = nn.Conv2d(channels, 8, *window).double()
    blocks = SpaceToDepthConv2d(channels, 8, window).double()
    blocks.load_state_dict(plain.state_dict())
    images = torch.randn(2, channels, side, side + 5, dtype=torch.float64)
    out = plain(images)
    torch.testing.assert_close(blocks(images), out)
    grad = torch.randn_like(out)
    out.backward(grad)
    blocks(images).backward(grad)
    torch.testing.assert_close(blocks.weight.grad, plain.weight.grad)
    assert blocks.bias is not None
    assert plain.bias is not None
    torch.testing.assert_close(blocks.bias.grad, plain.bias.grad)


def test_space_to_depth_is_channels_last_and_loses_nothing():
    x = torch.arange(2 * 3 * 8 * 12).view(2, 3, 8, 12)
    blocks = space_to_depth(x, 4)
    assert blocks.shape == (2, 48, 2, 3)
    assert blocks.is_contiguous(memory_format=torch.channels_last)
    assert blocks[1, :, 1, 2].sort().values.tolist() == (
        x[1, :, 4:8, 8:12].flatten().sort().values.tolist()
    )


def test_only_strided_convolutions_of_few_channels_work_on_blocks():
    assert isinstance(make_conv(3, 8, Window(7, 2, 1)), SpaceToDepthConv2d)
    for inputs, window in ((96, Window(5, 2, 2)), (3, Window(3, 1, 1))):
        assert type(make_conv(inputs, 8, window)) is nn.Conv2d
