"""The optimisers and the learning-rate schedules that a configuration can name.

All are torch's own but LARS. To add one, add a row; settings that only it reads go into
``training.config``.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    LambdaLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
)

from training.lars import LARS, SumOverSlices

if TYPE_CHECKING:  # the schema lists the names of these tables
    from training.config import OptimizerConfig, ScheduleConfig

Parameters = list[dict[str, Any]]
"""Groups of named parameters, as torch's optimisers take them."""
MakeOptimizer = Callable[[Parameters, "OptimizerConfig", bool, SumOverSlices], Optimizer]
"""Makes an optimiser, fused or not; it may ask for sums over full parameters."""


def _sgd(
    parameters: Parameters, config: "OptimizerConfig", fused: bool, over_slices: SumOverSlices
) -> SGD:
    return SGD(
        parameters,
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        fused=fused,
    )


def _adamw(
    parameters: Parameters, config: "OptimizerConfig", fused: bool, over_slices: SumOverSlices
) -> AdamW:
    return AdamW(
        parameters,
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=fused,
    )


def _lars(
    parameters: Parameters, config: "OptimizerConfig", fused: bool, over_slices: SumOverSlices
) -> LARS:
    return LARS(
        parameters,
        over_slices,
        lr=config.learning_rate,
        trust_coefficient=config.trust_coefficient,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        fused=fused,
    )


OPTIMIZERS: dict[str, MakeOptimizer] = {
    "sgd": _sgd,
    "adamw": _adamw,
    "lars": _lars,
}


def whole(names: Sequence[str], sums: Tensor) -> Tensor:
    """Sums over the parameters of a net of which no other rank holds a part."""
    return sums


def make_optimizer(
    features: nn.Module,
    classifier: nn.Module,
    config: "OptimizerConfig",
    sum_over_slices: SumOverSlices = whole,
    *,
    may_skip: bool,
) -> Optimizer:
    """The optimiser of all parameters (biases decay too, as in the paper's text).

    The classifier's form a group of their own if they have a learning rate of their own, or are
    updated more often: torch takes a group's first step to be that of all its parameters.

    ``may_skip`` says that a gradient scaler may skip steps. torch's fused SGD would then read
    momentum that the first of these steps never wrote, so the fused form is off.
    """
    groups: list[dict[str, Any]] = [
        {"params": list(features.named_parameters())},
        {"params": list(classifier.named_parameters())},
    ]
    if config.classifier_learning_rate is not None:
        groups[1]["lr"] = config.classifier_learning_rate
    elif config.classifier_updates != "turn":
        groups = [{"params": [each for group in groups for each in group["params"]]}]
    return OPTIMIZERS[config.name](groups, config, not may_skip, sum_over_slices)


def _constant(optimizer: Optimizer, config: "ScheduleConfig", steps: int) -> LRScheduler:
    return ConstantLR(optimizer, factor=1.0)


def _plateau(optimizer: Optimizer, config: "ScheduleConfig", steps: int) -> LRScheduler:
    return ReduceLROnPlateau(optimizer, patience=config.patience)


def _one_cycle(optimizer: Optimizer, config: "ScheduleConfig", steps: int) -> LRScheduler:
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=steps + 1,
        # At least half a step: torch divides by the length of the rise.
        pct_start=max(config.warmup, 1.5 / (steps + 1)),
        cycle_momentum=False,
    )


def _cosine(optimizer: Optimizer, config: "ScheduleConfig", steps: int) -> LRScheduler:
    rise = round(config.warmup * steps)

    def factor(step: int) -> float:
        """Linear from 1 / (rise + 1) at step 0 to 1 at ``rise``, then a cosine to 0 at the end."""
        if step < rise:
            return (step + 1) / (rise + 1)
        return (1 + math.cos(math.pi * (step - rise) / max(steps - rise, 1))) / 2

    return LambdaLR(optimizer, factor)


SCHEDULES: dict[str, Callable[[Optimizer, "ScheduleConfig", int], LRScheduler]] = {
    "constant": _constant,
    "plateau": _plateau,
    "one_cycle": _one_cycle,
    "cosine": _cosine,
}


class Schedule:
    """Moves the learning rate after each step or, on a plateau, after each evaluation."""

    def __init__(self, optimizer: Optimizer, config: "ScheduleConfig", total_steps: int) -> None:
        self.optimizer = optimizer
        self.scheduler = SCHEDULES[config.name](optimizer, config, total_steps)

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def after_step(self) -> None:
        """Move on by one optimiser step."""
        if not isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step()

    def after_evaluation(self, test_error: float) -> None:
        """Move on by one evaluation with this test error."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(test_error)

    def state(self) -> dict[str, Any]:
        """Plain numbers for a checkpoint."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        return {"learning_rates": rates, **self.scheduler.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what ``state`` returned."""
        state = dict(state)
        older = [state.pop("learning_rate", None)]
        rates = state.pop("learning_rates", older)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.scheduler.load_state_dict(state)
