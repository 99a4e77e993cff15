"""The training step and the evaluation, the same for every placement."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

from common.errors import ReportedError
from data.preprocess import Preprocess
from distributed.agreement import check_same_weights, slowest_rank
from distributed.device import HostCopy, check_computes_in, compute_deterministically
from distributed.mesh import Mesh
from distributed.placement import MeshPlacement
from distributed.replication import replicate, summing
from distributed.timer import StepCost, StepMarks
from distributed.turns import Turn, plan_turns, take_turns
from model.alexnet import AlexNet
from model.initialization import fill, initialize
from model.keyed_random import image_keys
from native.fusion import why_not_compiled
from training.batches import LocalBatch
from training.config import Config
from training.inference import compute, compute_logits, score
from training.optimization import Schedule, make_optimizer
from training.precision import PRECISIONS


def build_model(
    config: Config,
    mesh: Mesh,
    classes: int,
    channels: int,
    tensors: dict[str, Tensor] | None = None,
) -> AlexNet:
    """The network placed on the mesh, with its initial values or those of the full ``tensors``.

    Raises ReportedError if the ranks' precisions differ, or a device cannot compute in theirs.
    """
    if mesh.plan.world_size > 1 and len(found := mesh.union({config.precision})) > 1:
        raise ReportedError(
            f"the ranks' devices would compute in {' and '.join(sorted(found))}: set precision=fp32"
        )
    check_computes_in(mesh.device, PRECISIONS[config.precision].dtype)
    if config.deterministic:
        compute_deterministically(mesh.device)
    placement = MeshPlacement(mesh, overlap=config.overlap_communication)
    model = AlexNet(config.form, classes, channels, placement)
    if tensors is None:
        initialize(model, config.seed, config.init)
    else:
        fill(model, tensors)
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    dtype = PRECISIONS[config.precision].weights
    return model.to(mesh.device, dtype, memory_format=layout)  # type: ignore[call-overload]


@dataclass(frozen=True)
class StepResult:
    """An optimiser step: mean loss and top-1 accuracy of the global batch, and this rank's cost."""

    loss: float
    top1: float
    images: int
    learning_rate: float
    cost: StepCost


@dataclass(frozen=True)
class LaunchedStep:
    """An optimiser step that a GPU may still be working on, ``epochs_done`` from the run's start.

    ``totals`` are the summed loss, correct predictions and images of the global batch.
    """

    number: int
    epochs_done: float
    learning_rate: float
    totals: HostCopy
    marks: StepMarks
    trainer: "Trainer"

    def result(self) -> StepResult:
        """The step's result, waited for.

        Raises ReportedError when the loss is no longer finite; since then, no step was taken.
        """
        mesh = self.trainer.mesh
        with mesh.timer.whereabouts.inside(f"step {self.number}"):
            loss, right, count = mesh.read(self.totals)
        check_finite(loss, self.number)
        cost = self.marks.cost()
        self.trainer.own_seconds.append(cost.own_seconds)
        return StepResult(loss / count, right / count, int(count), self.learning_rate, cost)


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
        data: dict[str, Any] | None = None,
    ) -> None:
        """Its checkpoints keep the names of the outputs, ``classes``, and describe the ``data``."""
        assert isinstance(model.placement, MeshPlacement)
        self.placement = model.placement
        self.updates_in_turns = config.optimizer.classifier_updates == "turn"
        self.config, self.mesh, self.model, self.preprocess = config, mesh, model, preprocess
        self.classes, self.data = classes, data or {}
        self.steps, self.total_steps = 0, total_steps
        self.epochs_done, self.owes_evaluation = 0.0, False
        self.own_seconds: list[float] = []
        features, classifier = model.stages()
        if config.compile and why_not_compiled(mesh.device) is None:
            features.compile()
            classifier.compile()
        compress = config.compress_gradients
        copies = mesh.features.copies.at("conv gradients")
        self.features = replicate(features, copies, compress=compress)
        copies = mesh.classifier.copies.at("fc gradients")
        self.classifier = replicate(classifier, copies, compress=compress, ends_backward=False)
        scales = PRECISIONS[config.precision].scales_loss
        self.optimizer = make_optimizer(
            *(features, classifier, config.optimizer, self.placement.sum_over_slices),
            may_skip=scales,
        )
        self.schedule = Schedule(self.optimizer, config.schedule, total_steps)
        self.failed = torch.zeros((), device=mesh.device)  # 1 once a loss was not finite
        if not scales:
            # What torch's fused optimisers ask, on the device, before they change a weight.
            self.optimizer.found_inf = self.failed  # type: ignore[attr-defined]
        # When one shard's gradients overflow, all ranks that share a net skip the step.
        self.scaler = ShardedGradScaler(
            mesh.device.type, enabled=scales, process_group=mesh.classifier.slices.group
        )

    def is_due(self, every: int | None) -> bool:
        """True every ``every`` steps, and after the last step."""
        return self.steps >= self.total_steps or (every is not None and self.steps % every == 0)

    def train_step(self, local: LocalBatch) -> LaunchedStep:
        """Take one optimiser step on this replica's part of the global batch.

        Nothing is read back from a GPU, so the host may prepare the next step meanwhile. Only the
        scaler of fp16 waits, to know whether to skip the step. Once a loss is not finite, neither
        this step nor a later one changes the weights.
        """
        with self.mesh.timer.whereabouts.inside(f"step {self.steps + 1}"):
            self.model.train()
            self.optimizer.zero_grad()
            totals = self.mesh.sum_over_replicas(self._compute_gradients(local))
            self.failed.masked_fill_(~totals[0].isfinite(), 1.0)
            learning_rate = self.schedule.learning_rate
            self._update_weights()
        self.steps += 1
        self.epochs_done = local.epochs_done
        every = self.config.evaluate_every
        self.owes_evaluation = self.is_due(every) or (every is None and local.ends_epoch)
        copy, marks = HostCopy(totals), self.mesh.timer.take()
        return LaunchedStep(self.steps, self.epochs_done, learning_rate, copy, marks, self)

    def _compute_gradients(self, local: LocalBatch) -> Tensor:
        """Accumulate the gradients of the local batch, and sum them over the copies once.

        Returns float64 (3,) of this replica: summed loss, correct predictions, images.
        """
        totals = torch.zeros(3, dtype=torch.float64, device=self.mesh.device)
        parts = local.parts(self.config.optimizer.gradient_accumulation)
        for part in parts:
            totals += self._forward_backward(part, sums=part is parts[-1])
        return totals

    def _forward_backward(self, local: LocalBatch, *, sums: bool) -> Tensor:
        """Add the gradients of the loss, summed over the images and divided by the global count.

        So the gradients of all parts, turns and replicas add up to those of the global batch's
        mean. With ``sums`` they are summed over the copies of each stage.
        """
        config, part = self.config, self.mesh.timer.part
        with part("data"):
            keys = image_keys(config.seed, local.epoch, local.batch.indices)
            inputs = self.preprocess(local.batch.images, keys)
        with part("forward"), summing(self.features, sums):
            x = compute(self.features, config.precision, inputs, keys)
        turns = plan_turns(config.classifier_scheme, local.shares, self.mesh)
        totals = torch.zeros(3, dtype=torch.float64, device=self.mesh.device)
        for turn, features in take_turns(x, turns, self.placement):
            with summing(self.classifier, sums and (turn.is_last or self.updates_in_turns)):
                totals += self._take_turn(turn, features, local)
            if self.updates_in_turns:
                self._update_classifier(turn, local.global_count)
        return totals

    def _take_turn(self, turn: Turn, features: Tensor, local: LocalBatch) -> Tensor:
        """The classifier's forward and backward pass; its totals, as for ``_compute_gradients``."""
        config, part = self.config, self.mesh.timer.part
        labels, smoothing = local.batch.labels[turn.own], config.optimizer.label_smoothing
        with part("forward"):
            indices = turn.pick(local.indices[self.mesh.fed_by])
            keys = image_keys(config.seed, local.epoch, indices)
            logits = compute_logits(self.classifier, features, keys, config.precision, turn.shares)
            loss = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
        with part("backward"):
            self.scaler.scale(loss * (1 / local.global_count)).backward()
        right = (logits.detach().argmax(1) == labels).sum()
        count = torch.full_like(right, len(labels))  # no copy from the host, which would wait
        return torch.stack([loss.detach().double(), right, count])

    def _update_classifier(self, turn: Turn, global_count: int) -> None:
        """Update the classifier with the mean gradient of a turn's images; without any, leave it.

        In all but the last turn the features have no gradients yet, so the optimiser passes them
        over; in the last, both stages are updated together.
        """
        with self.mesh.timer.part("optimizer"):
            if turn.images:
                gradients = [p.grad for p in self.classifier.parameters() if p.grad is not None]
                torch._foreach_mul_(gradients, global_count / turn.images)
                if turn.is_last:
                    return
                gradient = self.model.fc8.bias.grad
                assert gradient is not None
                self.failed.masked_fill_(~gradient.isfinite().all(), 1.0)
                self.optimizer.step()
            self.classifier.zero_grad()

    def _update_weights(self) -> None:
        with self.mesh.timer.part("optimizer"):
            if self.scaler.is_enabled():  # it asks the gradients
                gradient = self.model.fc8.bias.grad
                assert gradient is not None
                gradient.masked_fill_(self.failed.bool(), math.nan)
            self.scaler.unscale_(self.optimizer)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.schedule.after_step()

    def compare_ranks(self) -> dict[str, float]:
        """Check that equal weights are still equal, and find the slowest rank.

        The time is that of a mean step since the last call. Every rank must call it. Raises
        ReportedError when a weight differs between ranks that hold the same.
        """
        check_same_weights(self.mesh, self.model, self.placement)
        own = fmean(self.own_seconds)
        self.own_seconds.clear()
        return slowest_rank(self.mesh, own)

    def evaluate(
        self, batches: Iterable[LocalBatch], stopped: Callable[[], int] = lambda: 0
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
        if not math.isfinite(metrics["test/loss"]):
            raise ReportedError(
                f"the test loss is {metrics['test/loss']} after step {self.steps}, so the weights "
                "are of no use: start from an earlier checkpoint (weights=…) with a lower "
                "optimizer.learning_rate, or use precision fp32"
            )
        self.owes_evaluation = False
        self.schedule.after_evaluation(1 - metrics["test/top1"])
        return metrics

    def conv1(self) -> Tensor:
        """The first layer's kernels (K, C, H, W) of all towers; every rank must call it."""
        weight = self.model.conv1.weight.detach()
        return self.placement.unshard("conv1.weight", weight).cpu()

    def _turns_of_updates(self) -> list[Any] | None:
        """What decides which images an update of the classifier reads; None for all of them."""
        if not self.updates_in_turns:
            return None
        plan = self.mesh.plan
        return [self.config.classifier_scheme, plan.feeds, plan.classifier.replicas]

    def state(self) -> dict[str, Any]:
        """The state beside the tensors, as plain numbers, for a checkpoint."""
        return {
            "step": self.steps,
            "epochs_done": self.epochs_done,
            "owes_evaluation": self.owes_evaluation,
            "schedule": self.schedule.state(),
            "scaler": self.scaler.state_dict(),
            "classifier_turns": self._turns_of_updates(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a result of ``state``.

        Raises ReportedError if it updates the classifier after other turns than here.
        """
        turns = state.get("classifier_turns", self._turns_of_updates())
        if turns != self._turns_of_updates():
            raise ReportedError(
                "optimizer.classifier_updates=turn goes on with the same turns only, which were "
                f"(scheme, replicas, groups) {turns} and are {self._turns_of_updates()} here: use "
                "the same placement, classifier_scheme and number of ranks"
            )
        self.steps = state["step"]
        self.epochs_done, self.owes_evaluation = state["epochs_done"], state["owes_evaluation"]
        self.schedule.load_state(state["schedule"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])


def check_finite(loss: float, step: int) -> None:
    """Raise ReportedError if the loss of a step is not finite; that step was not taken."""
    if not math.isfinite(loss):
        raise ReportedError(
            f"the loss became {loss} in step {step}, and that step was not taken: start from "
            "the last checkpoint (weights=…) with a lower optimizer.learning_rate, or use "
            "precision fp32"
        )
