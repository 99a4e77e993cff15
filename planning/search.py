"""Every plan that train.py can run, what each would cost, and the best."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from common.errors import ReportedError
from distributed.plan import Grid, Plan
from model.variants import Variant
from planning.job import Job
from planning.machine import Machine
from planning.prediction import Prediction, predict

HYBRID_SCHEMES = ("a", "c", "b")
"""The first is recommended of those that are predicted to be equal."""


@dataclass(frozen=True)
class Candidate:
    """A plan with the hybrid's scheme, and with gradients sent as they are or as bf16."""

    plan: Plan
    scheme: str = "a"
    compressed: bool = False

    @property
    def name(self) -> str:
        """A short name, such as hybrid 4×2 (c)."""
        plan, name = self.plan, self.plan.placement
        if plan.features.replicas > 1 < plan.features.shards:
            name += f" {plan.features.shards}×{plan.features.replicas}"
        if plan.feeds > 1:
            groups = plan.classifier.replicas
            name += f" {plan.classifier.shards}×{groups}" if groups > 1 else ""
            name += f" ({self.scheme})"
        return name + (" bf16" if self.compressed else "")

    @property
    def overrides(self) -> list[str]:
        """The settings of train.py that choose it."""
        plan = self.plan
        settings = [f"placement={plan.placement}"]
        if plan.placement in ("split", "split+hybrid"):
            settings.append(f"shards={plan.features.shards}")
        if plan.feeds > 1:
            settings.append(f"classifier_ranks={plan.classifier.shards}")
            settings.append(f"classifier_scheme={self.scheme}")
        return settings + (["compress_gradients=true"] if self.compressed else [])

    def job(self, job: Job) -> Job:
        """The job with this candidate's scheme and gradients."""
        size = 2 if self.compressed else job.gradient_size
        return replace(job, scheme=self.scheme, gradient_size=size)


def plans(ranks: int, towers: int, variant: Variant) -> Iterator[Plan]:
    """Every plan of a net with so many towers on ``ranks`` that train.py can run."""
    for shards in divisors(ranks):
        for classifier_shards in divisors(ranks):
            if classifier_shards % shards:
                continue
            plan = Plan(
                towers,
                Grid(shards, ranks // shards),
                Grid(classifier_shards, ranks // classifier_shards),
            )
            try:
                plan.check(variant)
            except ReportedError:
                continue
            yield plan


def divisors(number: int) -> list[int]:
    """The divisors of a number, in order."""
    return [each for each in range(1, number + 1) if number % each == 0]


def candidates(ranks: int, towers: int, variant: Variant, *, compress: bool) -> list[Candidate]:
    """All plans, with every scheme; with ``compress`` also with gradients as bf16."""
    found = []
    for plan in plans(ranks, towers, variant):
        has_sums = max(plan.features.replicas, plan.classifier.replicas) > 1
        for scheme in HYBRID_SCHEMES if plan.feeds > 1 else ("a",):
            for compressed in (False, True) if compress and has_sums else (False,):
                found.append(Candidate(plan, scheme, compressed))
    return found


@dataclass(frozen=True)
class Ranked:
    """A candidate with its prediction."""

    candidate: Candidate
    prediction: Prediction
    fits: bool


def rank(all_of: list[Candidate], job: Job, machine: Machine) -> list[Ranked]:
    """The candidates, those that fit in a rank's memory first, and the fastest of them first."""
    each = []
    for candidate in all_of:
        prediction = predict(candidate.job(job), candidate.plan, machine)
        each.append(Ranked(candidate, prediction, prediction.memory <= machine.memory))
    return sorted(each, key=lambda one: (not one.fits, one.prediction.seconds))
