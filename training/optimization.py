"""The optimiser and the learning-rate schedules, all torch's own."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import ConstantLR, OneCycleLR, ReduceLROnPlateau

from training.config import OptimizerConfig, ScheduleConfig


def make_optimizer(model: torch.nn.Module, config: OptimizerConfig, *, may_skip: bool) -> SGD:
    """SGD over all parameters (biases decay too, as the paper's text has it).

    With ``may_skip`` a scaler may leave out steps. torch's fused form would then take momentum
    from memory that the first of these steps never wrote.
    """
    return SGD(
        model.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        fused=not may_skip,
    )


class Schedule:
    """Moves the learning rate after each step or, on a plateau, after each evaluation."""

    def __init__(self, optimizer: Optimizer, config: ScheduleConfig, total_steps: int) -> None:
        self.optimizer = optimizer
        makers: dict[str, Callable[[], Any]] = {
            "constant": lambda: ConstantLR(optimizer, factor=1.0),
            "plateau": lambda: ReduceLROnPlateau(optimizer, patience=config.patience),
            "one_cycle": lambda: OneCycleLR(
                optimizer,
                max_lr=optimizer.param_groups[0]["lr"],
                total_steps=total_steps + 1,
                # At least half a step: torch divides by what the rise takes.
                pct_start=max(config.warmup, 1.5 / (total_steps + 1)),
                cycle_momentum=False,
            ),
        }
        self.scheduler = makers[config.name]()

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def after_step(self) -> None:
        """Move on by one optimiser step."""
        if not isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step()

    def after_evaluation(self, test_error: float) -> None:
        """Move on by one evaluation, whose error was ``test_error``."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(test_error)

    def state(self) -> dict[str, Any]:
        """Plain numbers for a checkpoint."""
        return {"learning_rate": self.learning_rate, **self.scheduler.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` gave."""
        state = dict(state)
        self.optimizer.param_groups[0]["lr"] = state.pop("learning_rate")
        self.scheduler.load_state_dict(state)
