"""The same net under torch's own tools for two ranks, as one would write it from their tutorials.

The peers train ``AlexNet`` with ``Placement``, so layers, images, dropout masks and optimiser are
ours, and only the parallelism differs. Their loss is the mean over the rank's own images, as
``DistributedDataParallel`` and ``fully_shard`` expect. torch's fused SGD refuses DTensors, so FSDP2
and the hybrid use its plain form. FSDP2 takes no channels-last weights, so its are contiguous. The
hybrid needs more than its tutorial says:

- Its loss is a rank's own, so ``fc8`` must hand out own images' logits, ``Shard(0)``. Whole logits
  (``Replicate``), of which a rank uses its part, give the right loss and, without an error, wrong
  gradients: DTensor takes the gradient of a replicated tensor for one that all ranks share.
- The gradients of its classifier are sums over ranks, those of the convolutions means. Unless one
  is rescaled, fc6 to fc8 learn twice as fast on two ranks.
- On gloo, DTensor replaces fc8's all-to-all by an all-gather, and warns of it.
- Dropout sees a slice of the units, of all images, and must slice its mask.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

from benchmarks.step import NETS
from distributed.mesh import Mesh
from model.alexnet import AlexNet
from model.initialization import initialize
from model.keyed_random import image_keys
from model.placement import Placement
from training.batches import LocalBatch, make_preprocess
from training.config import Config
from training.inference import compute
from training.optimization import make_optimizer
from training.precision import PRECISIONS

Forward = Callable[[Tensor, Sequence[Tensor]], Tensor]
"""Own images' logits, from own images (B, C, H, W) and each rank's keys of dropout."""


def alone(model: AlexNet, mesh: Mesh) -> Forward:
    """No parallelism: the reference."""
    return lambda images, keys: model(images, torch.cat(list(keys)))


def replicas(model: AlexNet, mesh: Mesh, *, views: bool = False) -> Forward:
    """``DistributedDataParallel`` as it comes, or with ``gradient_as_bucket_view``."""
    replica = DistributedDataParallel(model, gradient_as_bucket_view=views)
    return lambda images, keys: replica(images, keys[mesh.rank])


def sharded_parameters(model: AlexNet, mesh: Mesh) -> Forward:
    """FSDP2: ``fully_shard`` on fc6, fc7 and fc8, and on the convolutions together.

    It takes no channels-last weights, so these are contiguous.
    """
    model.to(memory_format=torch.contiguous_format)
    ranks = init_device_mesh(mesh.device.type, (mesh.plan.world_size,))
    for layer in (model.fc6, model.fc7, model.fc8):
        fully_shard(layer, mesh=ranks)
    fully_shard(model, mesh=ranks)
    return lambda images, keys: model(images, keys[mesh.rank])


PAIRED: dict[str, ParallelStyle] = {
    "fc6": ColwiseParallel(input_layouts=Shard(0)),
    "fc7": RowwiseParallel(),
    "fc8": ColwiseParallel(output_layouts=Shard(0)),
}
"""The tutorial's pair: fc7 adds up over ranks what its own slice of fc6's units gives."""
GATHERED: dict[str, ParallelStyle] = {
    "fc6": ColwiseParallel(input_layouts=Shard(0)),
    "fc7": ColwiseParallel(input_layouts=Shard(-1)),
    "fc8": RowwiseParallel(output_layouts=Shard(0)),
}
"""The layers cut as in our hybrid: fc7 gathers, and fc8's sums go to the images' owners."""


def hybrid(model: AlexNet, mesh: Mesh, *, styles: dict[str, ParallelStyle]) -> Forward:
    """Convolutions under ``DistributedDataParallel``, the classifier of DTensors."""
    number = mesh.plan.world_size
    ranks = init_device_mesh(mesh.device.type, (number,))
    features = DistributedDataParallel(model.stages()[0])
    parallelize_module(model, ranks, styles)
    for name, dropout in (("fc6", model.dropout6), ("fc7", model.dropout7)):
        if isinstance(styles[name], ColwiseParallel):
            each = len(dropout.units) // number
            dropout.units = dropout.units[mesh.rank * each : (mesh.rank + 1) * each]

    def forward(images: Tensor, keys: Sequence[Tensor]) -> Tensor:
        x = _scale_gradient(features(images, keys[mesh.rank]), number)
        return _scale_gradient(model.classify(x, torch.cat(list(keys))), 1 / number)

    return forward


def _scale_gradient(x: Tensor, factor: float) -> Tensor:
    x.register_hook(lambda gradient: gradient * factor)
    return x


Peer = Callable[[AlexNet, Mesh], Forward]
PEERS: dict[str, Peer] = {
    "torch DDP": replicas,
    "torch DDP, views": partial(replicas, views=True),
    "torch FSDP2": sharded_parameters,
    "torch DTensor hybrid": partial(hybrid, styles=PAIRED),
    "the same, cut as ours": partial(hybrid, styles=GATHERED),
}


class PeerTrainer:
    """A net under torch's own parallelism, and what it is trained with on this rank."""

    def __init__(
        self, make: Callable[[AlexNet, Mesh], Forward], config: Config, mesh: Mesh
    ) -> None:
        self.config, self.mesh = config, mesh
        _, channels, classes = NETS[config.variant]
        self.model = AlexNet(config.form, classes, channels, Placement(config.towers))
        initialize(self.model, config.seed)
        dtype = PRECISIONS[config.precision].weights
        self.model.to(mesh.device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.preprocess = make_preprocess(config, channels)
        self.forward = make(self.model, mesh)
        is_distributed = any(isinstance(p, DTensor) for p in self.model.parameters())
        stages = self.model.stages()
        self.optimizer = make_optimizer(*stages, config.optimizer, may_skip=is_distributed)

    def train_step(self, local: LocalBatch) -> float:
        """Take one step; returns the mean loss of the rank's own images."""
        self.optimizer.zero_grad()
        seed, precision = self.config.seed, self.config.precision
        keys = [image_keys(seed, local.epoch, indices) for indices in local.indices]
        own = image_keys(seed, local.epoch, local.batch.indices)
        inputs = self.preprocess(local.batch.images, own)
        logits = compute(self.forward, precision, inputs, keys).to(PRECISIONS[precision].weights)
        loss = F.cross_entropy(logits, local.batch.labels)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def gradients(self) -> dict[str, Tensor]:
        """The full gradients of the last step; every rank must call it."""
        return {name: _full(p.grad) for name, p in self.model.named_parameters()}


def _full(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
