"""Without a GPU: what one would be given, in fake tensors, which have a device but no values.

A tensor left on the CPU is an error among them as it is on a GPU. Backward passes and streams
need a real device.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from data.preprocess import Preprocess, interpolation
from model.alexnet import AlexNet
from model.keyed_random import image_keys
from model.normalization import LocalResponseNorm
from model.placement import Placement
from model.variants import VARIANTS
from native import fusion

CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def _no_kept_fake_tensors(monkeypatch):
    monkeypatch.setattr(fusion, "_why_not", lambda device: "fake tensors are not compiled")
    interpolation.cache_clear()
    yield
    interpolation.cache_clear()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [64, 224])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_forward_pass_stays_on_the_device(variant, size, training):
    with FakeTensorMode():
        with CUDA:
            model = AlexNet(VARIANTS[variant], 10, 3, Placement(2))
        images = torch.empty(4, 3, 256, 256, dtype=torch.uint8, device=CUDA)
        keys = image_keys(0, 0, torch.arange(4, device=CUDA)) if training else None
        preprocess = Preprocess(size, 256, [0.0] * 3, [1.0] * 3, True)
        inputs = preprocess(images, keys)
        assert inputs.is_contiguous(memory_format=torch.channels_last)
        logits = model.train(training)(inputs, keys)
    assert (logits.device.type, logits.shape) == ("cuda", (4, 10))


@pytest.fixture
def _autocast():
    """CUDA's autocast to bf16, which its context manager refuses without a GPU."""
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    yield
    torch.set_autocast_enabled("cuda", False)


@pytest.mark.usefixtures("_autocast")
def test_normalisation_keeps_bf16_under_autocast():
    with FakeTensorMode():
        maps = torch.empty(2, 96, 27, 27, device=CUDA, dtype=torch.bfloat16)
        assert maps.rsqrt().dtype == torch.float32, "autocast's own choice"
        norm = LocalResponseNorm(2)
        assert norm(maps).dtype == norm.in_shifts(maps).dtype == torch.bfloat16
