"""The proof that every placement takes the same steps as one process, on these devices."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from checking.report import Outcome
from checking.steps import Trainings, full_tensors, relative_error, small_config, take_steps
from common.errors import ReportedError
from training.config import Config

STEPS = 2
"""The second batch is short. In fp32 a third step would let a ReLU choose otherwise."""
EXACT = {"cpu": ("fp64", 1e-12), "cuda": ("fp32", 1e-4)}
"""Precision, and the largest error that counts as equal, by the type of the device."""


class Case(NamedTuple):
    """A placement of a net; its settings may depend on the number of ranks."""

    name: str
    variant: str
    towers: int
    settings: dict[str, Any]


def cases(ranks: int) -> list[Case]:
    """All placements, whether the ranks allow them or not."""
    half = max(1, ranks // 2)
    return [
        Case("ddp", "paper", 2, {"placement": "ddp"}),
        Case("split", "paper", 2, {"placement": "split"}),
        Case("split over all ranks", "paper", 2, {"placement": "split", "shards": ranks}),
        Case("split, LRN across ranks", "caffe", 2, {"placement": "split"}),
        Case("dense split", "paper", 1, {"placement": "split"}),
        *(
            Case(f"hybrid ({scheme})", "paper", 1, _scheme("hybrid", scheme))
            for scheme in ("a", "b", "c")
        ),
        Case("hybrid (c) in two groups", "paper", 1, _scheme("hybrid", "c", half)),
        *(
            Case(f"split+hybrid ({scheme})", "paper", 2, _scheme("split+hybrid", scheme))
            for scheme in ("a", "b", "c")
        ),
        Case("split+hybrid (c) in two groups", "paper", 2, _scheme("split+hybrid", "c", half)),
    ]


def _scheme(placement: str, scheme: str, group: int | None = None) -> dict[str, Any]:
    return {
        "placement": placement,
        "classifier_scheme": scheme,
        **({"classifier_ranks": group} if group else {}),
    }


def fitting(ranks: int, precision: str) -> tuple[dict[str, Config], list[str]]:
    """(configurations of the placements that these ranks allow, names of the others)."""
    fit: dict[str, Config] = {}
    seen: set[Any] = set()
    for name, variant, towers, settings in (all_cases := cases(ranks)):
        config = small_config(ranks, precision, variant=variant, towers=towers, **settings)
        try:
            plan = config.plan(ranks)
        except ReportedError:
            continue
        key = variant, plan, config.classifier_scheme
        if plan.placement == config.placement and key not in seen:
            seen.add(key)
            fit[name] = config
    return fit, [case.name for case in all_cases if case.name not in fit]


def check_placements(trainings: Trainings) -> Iterator[Outcome]:
    """Compare losses, gradients and weights of each placement with those of one process.

    Every rank computes both, on the same device, and the largest error of all ranks counts.
    """
    precision, tolerance = EXACT[trainings.mesh.device.type]
    expected: dict[tuple[str, int], dict[str, Tensor]] = {}
    fit, others = fitting(trainings.ranks, precision)
    for name, config in fit.items():
        net = config.variant, config.towers
        if net not in expected:
            expected[net] = _steps(trainings, config, alone=True)
        found = _steps(trainings, config)
        own = max(relative_error(found[key], tensor) for key, tensor in expected[net].items())
        error = trainings.mesh.largest(own)
        said = f"error {error:.1e}  {config.variant}, {config.towers} tower(s)"
        yield Outcome(name, error <= tolerance, said)
    for name in others:
        yield Outcome(name, None, f"needs {_ranks_for(name, trainings.ranks)} ranks")


def _ranks_for(name: str, more_than: int) -> int | str:
    """The next number of ranks on which a placement can be checked."""
    numbers = range(more_than + 1, more_than + 8)
    return next((number for number in numbers if name in fitting(number, "fp32")[0]), "other")


def _steps(trainings: Trainings, config: Config, *, alone: bool = False) -> dict[str, Tensor]:
    """The outcome of ``STEPS`` steps: losses, and full gradients and weights."""
    if alone:
        trainer = trainings.start_alone(config.model_copy(update={"placement": "local"}))
    else:
        trainer = trainings.start(config)
    losses = [step.loss for step in take_steps(trainer, STEPS)]
    return {"losses": torch.tensor(losses, dtype=torch.float64), **full_tensors(trainer)}
