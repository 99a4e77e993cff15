"""A training step on a device that holds no numbers: the host reads none back.

PyTorch's ``meta`` device takes the branches of a GPU, and whatever would wait for a GPU raises: a
Python number from a tensor, a comparison, a copy to the host. What it lacks is given here: a
collective library (torch's fake one), a kernel for the fused optimiser, autocast.
"""

import functools
import sys
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from data import preprocess
from data.loading import Batch
from data.preprocess import interpolation
from distributed import replication
from distributed.device import HostCopy
from distributed.mesh import Mesh
from model import layers, pooling
from model.variants import VARIANTS
from training.batches import LocalBatch, make_preprocess
from training.config import Config
from training.trainer import Trainer, build_model

SUPPORTED = "_get_fused_kernels_supported_devices"
META = torch.device("meta")
BATCH, SIZE, CLASSES = 12, 64, 10
NARROW = {name: replace(variant, hidden=48) for name, variant in VARIANTS.items()}

aten = torch.ops.aten
library = torch.library.Library("aten", "IMPL")
library.impl("_fused_sgd_", lambda *_, **__: None, "Meta")
SPACE_TO_DEPTH = {"constant_pad_nd", "clone", "_unsafe_view"}
"""What conv1 does to its images, which in a split are larger than the own part of its maps."""
READS = {
    *(aten._local_scalar_dense, aten.equal, aten.is_nonzero, aten.nonzero),
    aten.masked_select,
}


class Operations(TorchDispatchMode):
    """Raises AssertionError where the host waits for the device.

    ``on_maps`` collects the operations that write maps (B, C, H, W) as large as ``shape``.
    """

    def __init__(self, shape):
        super().__init__()
        self.shape, self.on_maps = torch.Size(shape), []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        operation = function.overloadpacket
        on_device = any(isinstance(each, torch.Tensor) and each.device == META for each in args)
        assert not (on_device and operation in READS), f"{function} waits for the device"
        out = function(*args, **kwargs)
        assert not _is_awaited_upload(operation, out, args, kwargs), f"{function} is waited for"
        if not function.is_view and any(
            map(self._is_map, out if isinstance(out, tuple) else [out])
        ):
            self.on_maps.append(operation.__name__)
        return out

    def _is_map(self, result):
        if not isinstance(result, torch.Tensor) or result.dim() < 4:
            return False
        return len(result) == self.shape[0] and result.numel() >= self.shape.numel()


def _is_awaited_upload(operation, out, args, kwargs):
    """True for a copy from the host to the device that blocks the host."""
    if operation is aten.lift_fresh:
        return out.device == META
    if operation not in (aten._to_copy, aten.copy_):
        return False
    source = args[1] if operation is aten.copy_ else args[0]
    blocks = not kwargs.get("non_blocking", len(args) > 2 and args[2])
    return source.device != META and out.device == META and blocks


class _Kernel(torch.autograd.Function):
    """Stands for a compiled region: one operation forward and one backward."""

    @staticmethod
    def forward(ctx, function, x, *others):
        ctx.save_for_backward(x)
        with _disable_current_modes():
            result = function(x, *others)
        return torch.empty_like(result)

    @staticmethod
    def backward(ctx, grad):
        [x] = ctx.saved_tensors
        return None, torch.empty_like(x), *[None] * (len(ctx.needs_input_grad) - 2)


class _Unchecked(DistributedDataParallel):
    """Without the comparison of shapes at the start, which reads them back."""

    __init__ = functools.partialmethod(DistributedDataParallel.__init__, init_sync=False)


@pytest.fixture
def copies(monkeypatch):
    """Makes up for what ``meta`` lacks; the numbers of which copies to the host are begun."""
    begun = []
    monkeypatch.setattr(HostCopy, "__init__", lambda self, numbers: begun.append(numbers.numel()))
    monkeypatch.setattr(HostCopy, "read", lambda self, timeout: [1.0] * begun[-1])
    monkeypatch.setattr(replication, "DistributedDataParallel", _Unchecked)
    monkeypatch.setattr("torch.autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr("torch.is_autocast_enabled", lambda *_: False)
    for module in (pooling, layers, preprocess):
        monkeypatch.setattr(module, "fuses", lambda device: device == META)
        monkeypatch.setattr(
            module, "compiled", lambda region: functools.partial(_Kernel.apply, region)
        )
    monkeypatch.setattr(sys.modules["torch.optim.optimizer"], SUPPORTED, lambda: ["meta"])
    for name, variant in NARROW.items():
        monkeypatch.setitem(VARIANTS, name, variant)
    interpolation.cache_clear()
    yield begun
    interpolation.cache_clear()


@pytest.fixture
def fake_ranks():
    """Joins a group of so many ranks, of which this process is one and the others do not exist."""

    def join(ranks, rank):
        backend = "cpu:fake,meta:fake"
        dist.init_process_group(backend, store=FakeStore(), rank=rank, world_size=ranks)

    yield join
    dist.destroy_process_group()


def _trainer(variant, towers, placement, ranks, settings):
    config = Config.model_validate(
        {
            "variant": variant,
            "towers": towers,
            "placement": placement,
            "batch_size": BATCH,
            "precision": "fp32",
            "data": {"size": SIZE, "resize": 72, "mirror": True, "test_views": 10},
            **settings,
        }
    )
    mesh = Mesh.over_running_group(config.plan(ranks), META)
    model = build_model(config, mesh, CLASSES, 3)
    return Trainer(config, mesh, model, make_preprocess(config, 3), 10)


def _local_batch(mesh):
    replicas = mesh.plan.features.replicas
    images = torch.empty(BATCH // replicas, 3, 96, 96, dtype=torch.uint8, device=META)
    labels = torch.empty(len(images), dtype=torch.int64, device=META)
    indices = torch.empty(BATCH, dtype=torch.int64, device=META).tensor_split(replicas)
    return LocalBatch(Batch(images, labels, indices[mesh.replica]), indices, BATCH)


def _first_map(trainer, local):
    """The shape of conv1's maps, the largest of the net."""
    conv1 = trainer.model.conv1
    side = VARIANTS[trainer.config.variant].windows[0].out_side(SIZE)
    return len(local.batch.images), conv1.out_channels, side, side


PLACEMENTS = [
    ("paper", 2, "local", 1, {}),
    ("paper", 2, "ddp", 2, {}),
    ("paper", 2, "ddp", 2, {"compress_gradients": True}),
    ("paper", 2, "split", 2, {}),
    ("paper", 2, "split", 4, {"overlap_communication": False}),
    ("paper", 2, "split", 4, {"shards": 4}),
    ("caffe", 2, "split", 2, {}),
    ("paper", 1, "split", 4, {}),
    ("torchvision", 1, "hybrid", 3, {"classifier_scheme": "a"}),
    ("torchvision", 1, "hybrid", 2, {"classifier_scheme": "b"}),
    ("torchvision", 1, "hybrid", 4, {"classifier_scheme": "c", "classifier_ranks": 2}),
    ("paper", 2, "split+hybrid", 4, {"classifier_scheme": "c"}),
    (
        *("torchvision", 1, "hybrid", 2),
        {"classifier_scheme": "b", "optimizer": {"classifier_updates": "turn"}},
    ),
    ("d2l", 1, "ddp", 2, {"optimizer": {"gradient_accumulation": 2}}),
    ("d2l", 1, "split", 2, {"optimizer": {"momentum": 0.0}}),
    ("paper", 2, "split", 2, {"optimizer": {"name": "lars"}}),
    ("paper", 2, "split+hybrid", 4, {"optimizer": {"name": "lars"}}),
]


@pytest.mark.parametrize("rank", ["first", "last"])
@pytest.mark.parametrize(("variant", "towers", "placement", "ranks", "settings"), PLACEMENTS)
def test_no_step_waits_for_the_device(
    copies, fake_ranks, variant, towers, placement, ranks, settings, rank
):
    fake_ranks(ranks, 0 if rank == "first" else ranks - 1)
    trainer = _trainer(variant, towers, placement, ranks, settings)
    assert trainer.mesh.plan.placement == placement
    local = _local_batch(trainer.mesh)
    trainer.preprocess(local.batch.images)  # its constants go to the device once
    with Operations(_first_map(trainer, local)) as operations:
        step = trainer.train_step(local)
    on_maps = [each for each in operations.on_maps if each not in SPACE_TO_DEPTH]
    assert len(on_maps) <= 3, "the images, conv1's maps and their gradients, each written once"
    assert copies == [3], "loss, correct predictions and images, which are read a step later"
    assert step.number == 1
    assert all(p.grad is not None and p.grad.device == META for p in trainer.model.parameters())


@pytest.mark.parametrize(
    "waits",
    [
        lambda numbers: float(numbers.sum()),
        lambda numbers: numbers.tolist(),
        lambda numbers: bool((numbers > 0).all()),
        lambda numbers: torch.zeros(3).to(META),
        lambda numbers: numbers.copy_(torch.zeros(3)),
    ],
)
def test_what_waits_is_found(waits):
    with Operations((1, 1, 1, 1)), pytest.raises((AssertionError, NotImplementedError)):
        waits(torch.empty(3, device=META))
