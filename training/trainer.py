"""The training step and the evaluation, the same for every placement."""

import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

from common.errors import ReportedError
from data.loading import Batch
from data.preprocess import Preprocess
from distributed.agreement import check_same_weights, slowest_rank
from distributed.mesh import Mesh
from distributed.replication import replicate
from distributed.split import SplitTowers
from distributed.timer import StepCost
from model.alexnet import AlexNet
from model.initialization import fill, initialize
from model.keyed_random import image_keys
from model.towers import LocalTowers
from training.batches import LocalBatch
from training.config import Config
from training.inference import compute_logits, score
from training.optimization import Schedule, make_optimizer
from training.precision import PRECISIONS


def build_model(
    config: Config,
    mesh: Mesh,
    classes: int,
    channels: int,
    tensors: dict[str, Tensor] | None = None,
) -> AlexNet:
    """The network placed on the mesh, with its initial values or those of the full ``tensors``."""
    towers = (
        SplitTowers(mesh.tower_group, mesh.timer, overlap=config.overlap_communication)
        if mesh.plan.placement == "split"
        else LocalTowers(config.towers)
    )
    model = AlexNet(config.form, classes, channels, towers)
    if tensors is None:
        initialize(model, config.seed, config.init)
    else:
        fill(model, tensors)
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    dtype = PRECISIONS[config.precision].weights
    return model.to(mesh.device, dtype, memory_format=layout)  # type: ignore[call-overload]


def why_not_compiled(device: torch.device) -> str | None:
    """The reason why ``torch.compile`` cannot be used here; None if it can."""
    if device.type == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
        return "there is no C++ compiler"
    return None


@dataclass(frozen=True)
class StepResult:
    """An optimiser step: mean loss and top-1 accuracy of the global batch, and this rank's cost."""

    loss: float
    top1: float
    images: int
    learning_rate: float
    cost: StepCost


class Trainer:
    """A model on its mesh with its optimiser and schedule; ``steps`` counts the steps taken."""

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        model: AlexNet,
        preprocess: Preprocess,
        total_steps: int,
        classes: Sequence[str] = (),
    ) -> None:
        """``classes`` are the names of the outputs, which its checkpoints keep."""
        self.config, self.mesh, self.model, self.preprocess = config, mesh, model, preprocess
        self.classes = classes
        self.steps, self.total_steps = 0, total_steps
        self.epochs_done, self.owes_evaluation = 0.0, False
        self.own_seconds: list[float] = []
        if config.compile and why_not_compiled(mesh.device) is None:
            model.compile()
        self.network = replicate(
            model, mesh.replica_group, mesh.timer, compress=config.compress_gradients
        )
        scales = PRECISIONS[config.precision].scales_loss
        self.optimizer = make_optimizer(model, config.optimizer, may_skip=scales)
        self.schedule = Schedule(self.optimizer, config.schedule, total_steps)
        # When one tower's gradients overflow, all towers of the replica skip the step.
        self.scaler = ShardedGradScaler(
            mesh.device.type, enabled=scales, process_group=mesh.tower_group
        )

    def is_due(self, every: int | None) -> bool:
        """True every ``every`` steps, and after the last step."""
        return self.steps >= self.total_steps or (every is not None and self.steps % every == 0)

    def train_step(self, local: LocalBatch) -> StepResult:
        """Take one optimiser step on this replica's part of the global batch.

        Raises ReportedError when the loss is no longer finite; the weights then stay untouched.
        """
        with self.mesh.timer.whereabouts.inside(f"step {self.steps + 1}"):
            self.network.train()
            self.optimizer.zero_grad()
            totals = self._compute_gradients(local)
            loss, right, count = self.mesh.sum_over_replicas(totals).tolist()
            self._check_finite(loss, self.steps + 1)
            learning_rate = self.schedule.learning_rate
            self._update_weights()
        self.steps += 1
        self.epochs_done = local.epochs_done
        self.owes_evaluation = local.ends_epoch or self.is_due(self.config.evaluate_every)
        cost = self.mesh.timer.take()
        self.own_seconds.append(cost.own_seconds)
        return StepResult(loss / count, right / count, int(count), learning_rate, cost)

    def _compute_gradients(self, local: LocalBatch) -> Tensor:
        """Accumulate the gradients of the local batch, and sum them over the replicas once.

        Returns float64 (3,) of this replica: summed loss, correct predictions, images.
        """
        totals = torch.zeros(3, dtype=torch.float64, device=self.mesh.device)
        number = self.config.optimizer.gradient_accumulation
        parts = zip(*(tensor.tensor_split(number) for tensor in local.batch), strict=True)
        for index, part in enumerate(parts, start=1):
            waits = index < number and self.network is not self.model
            with self.network.no_sync() if waits else nullcontext():  # type: ignore[operator]
                totals += self._forward_backward(Batch(*part), local.epoch, local.global_count)
        return totals

    def _forward_backward(self, batch: Batch, epoch: int, global_count: int) -> Tensor:
        """Add the gradients of the loss, summed over the images and divided by the global count.

        So the gradients of all parts and all replicas add up to those of the global batch's mean.
        """
        part = self.mesh.timer.part
        with part("data"):
            keys = image_keys(self.config.seed, epoch, batch.indices)
            inputs = self.preprocess(batch.images, keys)
        with part("forward"):
            logits = compute_logits(self.network, inputs, keys, self.config.precision)
            smoothing = self.config.optimizer.label_smoothing
            loss = F.cross_entropy(logits, batch.labels, reduction="sum", label_smoothing=smoothing)
        with part("backward"):
            self.scaler.scale(loss * (1 / global_count)).backward()
        right = (logits.detach().argmax(1) == batch.labels).sum()
        return torch.stack([loss.detach().double(), right, right.new_tensor(len(logits))])

    def _update_weights(self) -> None:
        with self.mesh.timer.part("optimizer"):
            self.scaler.unscale_(self.optimizer)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.schedule.after_step()

    def _check_finite(self, loss: float, step: int) -> None:
        if not math.isfinite(loss):
            raise ReportedError(
                f"the loss became {loss} in step {step}, and that step was not taken: start from "
                "the last checkpoint (weights=…) with a lower optimizer.learning_rate, or use "
                "precision fp32"
            )

    def compare_ranks(self) -> dict[str, float]:
        """Check that equal weights are still equal, and find the slowest rank.

        The time is that of a mean step since the last call. Every rank must call it. Raises
        ReportedError when a weight differs between ranks that hold the same.
        """
        check_same_weights(self.mesh, self.model)
        own = fmean(self.own_seconds)
        self.own_seconds.clear()
        return slowest_rank(self.mesh, own)

    def evaluate(
        self, batches: Iterable[Batch], stopped: Callable[[], int] = lambda: 0
    ) -> dict[str, float] | None:
        """Loss and top-1/top-5 accuracy over every replica's batches, each image counted once.

        All ranks must be given as many batches, which may be empty, and the same answers from
        ``stopped``. Once that is not 0 the evaluation is given up: None, and still owed.

        Raises ReportedError when the loss is not finite.
        """
        with self.mesh.timer.whereabouts.inside(f"evaluation after step {self.steps}"):
            metrics = score(self.model, self.preprocess, self.config, self.mesh, batches, stopped)
        if metrics is None:
            return None
        self._check_finite(metrics["test/loss"], self.steps)
        self.owes_evaluation = False
        self.schedule.after_evaluation(1 - metrics["test/top1"])
        return metrics

    def conv1(self) -> Tensor:
        """The first layer's kernels (K, C, H, W) of all towers; every rank must call it."""
        weight = self.model.conv1.weight.detach()
        return self.model.towers.unshard("conv1.weight", weight).cpu()

    def state(self) -> dict[str, Any]:
        """The state beside the tensors, as plain numbers, for a checkpoint."""
        return {
            "step": self.steps,
            "epochs_done": self.epochs_done,
            "owes_evaluation": self.owes_evaluation,
            "schedule": self.schedule.state(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a result of ``state``."""
        self.steps = state["step"]
        self.epochs_done, self.owes_evaluation = state["epochs_done"], state["owes_evaluation"]
        self.schedule.load_state(state["schedule"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
