"""The training step and the evaluation, the same for every placement."""

import math
import shutil
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from data.loading import Batch
from data.preprocess import Preprocess
from distributed.mesh import Mesh
from distributed.replicate import replicate
from distributed.towers import SplitTowers
from model.alexnet import AlexNet
from model.errors import InputError
from model.initialization import initialize
from model.keyed_random import image_keys
from model.towers import LocalTowers
from model.variants import variant_named
from training.config import Config
from training.meters import Stopwatch
from training.optimization import Schedule, make_optimizer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def build_model(config: Config, mesh: Mesh, classes: int, channels: int) -> AlexNet:
    """The network placed on the mesh, with its initial values."""
    split = mesh.plan.placement == "split"
    towers = SplitTowers(mesh.tower_group) if split else LocalTowers(config.towers)
    model = AlexNet(variant_named(config.variant), classes, channels, towers)
    initialize(model, config.seed, config.initial_values)
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    return model.to(mesh.device, memory_format=layout)  # type: ignore[call-overload,no-any-return]


def why_not_compiled(mesh: Mesh) -> str | None:
    """Why ``torch.compile`` is left off here, if it must be."""
    if mesh.plan.placement == "split":
        return "the meetings of split towers are not traced"
    if mesh.device.type == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
        return "there is no C++ compiler"
    return None


class Trainer:
    """A model on its mesh, its optimiser and its schedule; ``step`` and ``evaluate``."""

    def __init__(
        self, config: Config, mesh: Mesh, model: AlexNet, preprocess: Preprocess, total_steps: int
    ) -> None:
        if config.precision == "fp16" and mesh.plan.placement == "split":
            raise InputError(
                "precision fp16 scales each tower's loss apart and is for placement local only: "
                "choose bf16 or fp32"
            )
        self.config, self.mesh, self.model, self.preprocess = config, mesh, model, preprocess
        if config.compile and why_not_compiled(mesh) is None:
            model.compile()
        self.network, self.averaging = replicate(model, mesh.replica_group)
        self.optimizer = make_optimizer(model, config.optimizer)
        self.schedule = Schedule(self.optimizer, config.schedule, total_steps)
        self.scaler = torch.amp.GradScaler(mesh.device.type, enabled=config.precision == "fp16")
        self.watch = Stopwatch(mesh.device)

    def step(self, batch: Batch, epoch: int, global_count: int) -> Tensor:
        """One optimiser step on this replica's share of ``global_count`` images.

        Returns float64 (3,): the share's summed loss, its right answers, its size. The loss is
        the mean over the global batch whatever the shares: each replica's sum is divided by the
        global count, times the replicas that DDP's average divides by.
        """
        self.network.train()
        self.optimizer.zero_grad()
        scale = self.mesh.plan.replicas / global_count
        totals = torch.zeros(3, dtype=torch.float64, device=self.mesh.device)
        parts = [part.tensor_split(self.config.optimizer.accumulation) for part in batch]
        last = len(parts[0]) - 1
        for number, (images, labels, indices) in enumerate(zip(*parts, strict=True)):
            # Replicas average once, with the last part's gradients.
            waits = number < last and self.network is not self.model
            with self.network.no_sync() if waits else nullcontext():  # type: ignore[operator]
                totals += self._part(images, labels, indices, epoch, scale)
        with self.watch.part("optimizer"):
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.schedule.after_step()
        return totals

    def _part(
        self, images: Tensor, labels: Tensor, indices: Tensor, epoch: int, scale: float
    ) -> Tensor:
        with self.watch.part("data"):
            keys = image_keys(self.config.seed, epoch, indices)
            inputs = self.preprocess(images, keys)
        waited = self._exchanged_seconds()
        with self.watch.part("forward"):
            logits = self._logits(self.network, inputs, keys)
            smoothing = self.config.optimizer.label_smoothing
            loss = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
        self.watch.move(self._exchanged_seconds() - waited, "forward", "exchange")
        waited, self.averaging.last_bucket = self._exchanged_seconds(), 0.0
        with self.watch.part("backward"):
            self.scaler.scale(loss * scale).backward()
            end = self.watch.now()
        self.watch.move(self._exchanged_seconds() - waited, "backward", "exchange")
        if self.averaging.last_bucket:
            self.watch.move(end - self.averaging.last_bucket, "backward", "averaging")
        right = (logits.detach().argmax(1) == labels).sum()
        return torch.stack([loss.detach().double(), right.double(), right.new_tensor(len(labels))])

    def report(self, totals: Tensor, stop: bool, step: int) -> tuple[dict[str, float], bool]:
        """The global step's metrics, and whether any rank was asked to stop.

        Raises InputError when the loss is no longer finite.
        """
        shared = torch.cat([totals, totals.new_tensor([float(stop)])])
        dist.all_reduce(shared)
        # Every tower of a replica counted the same images.
        loss, right, count, stops = (shared / self.mesh.plan.ranks_per_replica).tolist()
        if not math.isfinite(loss):
            raise InputError(
                f"the loss became {loss} at step {step}: lower optimizer.learning_rate, or use "
                "precision fp32; checkpoints before this step are whole"
            )
        metrics = {"loss": loss / count, "train_top1": right / count}
        metrics["learning_rate"] = self.schedule.learning_rate
        return {**metrics, **self.watch.take()}, stops > 0

    @torch.no_grad()
    def evaluate(self, batches: Any) -> dict[str, float]:
        """Loss and top-1/top-5 accuracy over every replica's batches, each image counted once."""
        self.model.eval()
        totals = torch.zeros(4, dtype=torch.float64, device=self.mesh.device)
        for images, labels, _ in batches:
            logits = self._logits(self.model, self.preprocess(images, None), None)
            best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
            loss = F.cross_entropy(logits, labels, reduction="sum")
            totals += torch.stack([loss, best[:, 0].sum(), best.sum(), loss.new_tensor(len(best))])
        loss, top1, top5, count = self.mesh.sum(totals).tolist()
        return {"test_loss": loss / count, "test_top1": top1 / count, "test_top5": top5 / count}

    def _logits(self, network: torch.nn.Module, inputs: Tensor, keys: Tensor | None) -> Tensor:
        dtype = DTYPES[self.config.precision]
        enabled = dtype is not torch.float32
        with torch.autocast(self.mesh.device.type, dtype, enabled=enabled):
            return network(inputs, keys).float()  # type: ignore[no-any-return]

    def _exchanged_seconds(self) -> float:
        towers = self.model.towers
        return towers.ledger.seconds if isinstance(towers, SplitTowers) else 0.0

    def exchanged_bytes(self) -> int:
        """Bytes this rank has sent so far at the meetings and to average gradients."""
        towers = self.model.towers
        met = towers.ledger.bytes if isinstance(towers, SplitTowers) else 0
        return met + self.averaging.bytes
