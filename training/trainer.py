"""The training step and the evaluation, the same for every placement."""

import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
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
from model.alexnet import AlexNet
from model.initialization import fill, initialize
from model.keyed_random import image_keys
from model.towers import LocalTowers
from training.batches import LocalBatch
from training.config import DTYPES, Config
from training.inference import compute_logits, score
from training.optimization import Schedule, make_optimizer

OWN_PARTS = ("data", "forward", "backward", "optimizer")
"""Of a step's time: a rank's own work, beside what it waits for."""


def build_model(
    config: Config,
    mesh: Mesh,
    classes: int,
    channels: int,
    tensors: dict[str, Tensor] | None = None,
) -> AlexNet:
    """The network placed on the mesh, with its initial values or ``tensors`` of the local form."""
    split = mesh.plan.placement == "split"
    towers = SplitTowers(mesh.tower_group, mesh.timer) if split else LocalTowers(config.towers)
    model = AlexNet(config.form, classes, channels, towers)
    if tensors is None:
        initialize(model, config.seed, config.init)
    else:
        fill(model, tensors)
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    dtype = torch.promote_types(DTYPES[config.precision], torch.float32)
    return model.to(mesh.device, dtype, memory_format=layout)  # type: ignore[call-overload]


def why_not_compiled(device: torch.device) -> str | None:
    """Why ``torch.compile`` must be left off here, if so."""
    if device.type == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
        return "there is no C++ compiler"
    return None


class Trainer:
    """A model on its mesh with its optimiser and schedule; knows how many ``steps`` it has done."""

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        model: AlexNet,
        preprocess: Preprocess,
        total_steps: int,
        classes: Sequence[str] = (),
    ) -> None:
        """``classes`` are the names that its checkpoints give the outputs."""
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
        scales = config.precision == "fp16"
        self.optimizer = make_optimizer(model, config.optimizer, may_skip=scales)
        self.schedule = Schedule(self.optimizer, config.schedule, total_steps)
        # All towers of a replica skip a step when one of them overflows.
        self.scaler = ShardedGradScaler(
            mesh.device.type, enabled=scales, process_group=mesh.tower_group
        )

    def is_due(self, every: int | None) -> bool:
        """Whether what happens ``every`` so many steps, and after the last, happens now."""
        return self.steps >= self.total_steps or (every is not None and self.steps % every == 0)

    def train_step(self, share: LocalBatch) -> dict[str, float]:
        """One optimiser step on this replica's share; the metrics are the global batch's.

        The loss is the mean over the global batch whatever the shares: each replica's sum is
        divided by the global count, times the replicas that DDP's average divides by.

        Raises ReportedError when the loss is no longer finite; the weights are then not touched.
        """
        with self.mesh.timer.whereabouts.inside(f"step {self.steps + 1}"):
            return self._train_step(share)

    def _train_step(self, share: LocalBatch) -> dict[str, float]:
        self.network.train()
        self.optimizer.zero_grad()
        learning_rate = self.schedule.learning_rate
        scale = self.mesh.plan.replicas / share.global_count
        totals = torch.zeros(3, dtype=torch.float64, device=self.mesh.device)
        parts = [
            part.tensor_split(self.config.optimizer.gradient_accumulation) for part in share.batch
        ]
        batches = [Batch(*part) for part in zip(*parts, strict=True)]
        for batch in batches:
            # Replicas average once, with the last part's gradients.
            waits = batch is not batches[-1] and self.network is not self.model
            with self.network.no_sync() if waits else nullcontext():  # type: ignore[operator]
                totals += self._accumulate(batch, share.epoch, scale)
        loss, right, count = self.mesh.sum_over_replicas(totals).tolist()
        self._check_finite(loss, self.steps + 1)
        with self.mesh.timer.part("optimizer"):
            self.scaler.unscale_(self.optimizer)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.schedule.after_step()
        self.steps += 1
        self.epochs_done = share.epochs_done
        self.owes_evaluation = share.ends_epoch or self.is_due(self.config.evaluate_every)
        seconds, sent = self.mesh.timer.take()
        self.own_seconds.append(sum(seconds[part] for part in OWN_PARTS))
        return {
            "train/loss": loss / count,
            "train/top1": right / count,
            "train/images": int(count),
            "train/learning_rate": learning_rate,
            "train/bytes_sent": sent,
            **{f"time/{part}": value for part, value in seconds.items()},
        }

    def _accumulate(self, batch: Batch, epoch: int, scale: float) -> Tensor:
        """Add the gradients of ``scale`` times the summed loss.

        Returns float64 (3,): summed loss, right answers, images.
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
            self.scaler.scale(loss * scale).backward()
        right = (logits.detach().argmax(1) == batch.labels).sum()
        return torch.stack([loss.detach().double(), right, right.new_tensor(len(logits))])

    def _check_finite(self, loss: float, step: int) -> None:
        if not math.isfinite(loss):
            raise ReportedError(
                f"the loss became {loss} in step {step}, and that step was not taken: start from "
                "the last checkpoint (weights=…) with a lower optimizer.learning_rate, or use "
                "precision fp32"
            )

    def compare_ranks(self) -> dict[str, float]:
        """Check that equal weights are still equal, and say how long the slowest rank works.

        The metrics are of a mean step since the last call. Every rank must call it. Raises
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
        ``stopped``. Where that is not 0 the evaluation is given up: None, and still owed.

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
        """The first layer's kernels (K, C, 11, 11) of all towers; every rank must call it."""
        weight = self.model.conv1.weight.detach()
        return self.model.towers.unshard("conv1.weight", weight).cpu()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the tensors, as plain numbers."""
        return {
            "step": self.steps,
            "epochs_done": self.epochs_done,
            "owes_evaluation": self.owes_evaluation,
            "schedule": self.schedule.state(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` gave."""
        self.steps = state["step"]
        self.epochs_done, self.owes_evaluation = state["epochs_done"], state["owes_evaluation"]
        self.schedule.load_state(state["schedule"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
