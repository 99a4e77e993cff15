"""The step of a plan on a machine: its time by part, its bytes and its memory."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from distributed.plan import Plan
from model.alexnet import CLASSIFIER, FEATURES
from planning.job import Job
from planning.machine import Machine
from planning.memory import memory_of
from planning.traffic import Links, Transfer, activations, gradients
from planning.work import Pace, pace


@dataclass(frozen=True)
class Prediction:
    """A step, in seconds by part, with bytes by boundary and the bytes that a rank holds.

    ``activations`` and ``gradients`` are the times that a rank waits for others.
    """

    compute: float
    activations: float
    gradients: float
    optimizer: float
    bytes_at: dict[str, int]
    memory: float

    @property
    def seconds(self) -> float:
        """The time of the step."""
        return self.compute + self.activations + self.gradients + self.optimizer

    @property
    def parts(self) -> dict[str, float]:
        """Seconds by part."""
        names = ("compute", "activations", "gradients", "optimizer")
        return {name: getattr(self, name) for name in names}

    @property
    def bottleneck(self) -> str:
        """The part that takes longest."""
        return max(self.parts, key=lambda name: self.parts[name])


def predict(job: Job, plan: Plan, machine: Machine) -> Prediction:
    """Predict a step of ``plan``; see docs/planning.md for each formula, its source and limits."""
    return predict_over([links_of(machine)], job, plan, machine)[0]


def links_of(machine: Machine) -> Links:
    """The links of a machine; between its nodes those within them, if it has no others."""
    return Links(machine.within, machine.between or machine.within, machine.ranks_per_node)


def predict_over(
    links: Iterable[Links], job: Job, plan: Plan, machine: Machine
) -> list[Prediction]:
    """Predict a step of ``plan`` on the machine if it had each of the links."""
    speed = pace(machine, job, plan)
    computing = sum(sum(layer) for layer in speed.layers.values()) + speed.input
    sent = activations(job.net, plan, job.batch, job.activation_size)
    sums = gradients(job.net, plan, job.gradient_size)
    bytes_at, memory = job.bytes_sent(plan), memory_of(job, plan)
    return [
        Prediction(
            computing,
            _activations_exposed(job, plan, sent, each, speed),
            _gradients_exposed(job, plan, sums, each, speed),
            speed.optimizer,
            bytes_at,
            memory,
        )
        for each in links
    ]


def _activations_exposed(
    job: Job, plan: Plan, sent: Mapping[str, Transfer], links: Links, speed: Pace
) -> float:
    """The time that a rank waits for activations and their gradients.

    In scheme b one of the feeding ranks sends its features, and gets its logits, at a time.
    """
    waits, turns = 0.0, job.turns(plan)
    for name, transfer in sent.items():
        transfer = transfer._replace(calls=transfer.calls * job.parts)
        if name in ("fc6", "fc7", "logits"):
            transfer = transfer._replace(calls=transfer.calls * turns)
        if name in ("fc6", "logits") and job.scheme == "b":
            transfer = transfer._replace(in_turn=turns)
        taken = links.seconds(transfer)
        behind = _hiding(name, transfer, taken, plan, speed, turns) if job.overlaps else 0.0
        waits += taken - speed.hidden * behind
    return waits


def _hiding(
    name: str, transfer: Transfer, taken: float, plan: Plan, speed: Pace, turns: int
) -> float:
    """The time, of that ``taken`` by a transfer, in which a rank has other work.

    In turns the features of all but the first travel during the turn before, and the gradients of
    all but the last during the turn after. A layer that gathers channels works on its own
    meanwhile, a part 1/n of it.
    """
    if name == "fc6" and plan.feeds > 1:
        classifier = sum(sum(speed.layers[layer]) for layer in CLASSIFIER)
        return (turns - 1) / turns * min(taken, classifier)
    if name not in speed.layers:
        return 0.0
    return min(taken, sum(speed.layers[name]) / transfer.group.size)


def _gradients_exposed(
    job: Job, plan: Plan, sums: Mapping[str, Transfer], links: Links, speed: Pace
) -> float:
    """The time by which the sums of gradients outlast the backward pass, or slow it.

    The last part and turn of a step sums those of all. Each sum starts when its bucket is full, and
    when the sum before it has ended.
    """
    now = finished = busy = 0.0
    for bucket in _buckets():
        times = job.parts * (job.turns(plan) if bucket[0] in CLASSIFIER else 1)
        now += sum(speed.layers[layer].backward for layer in bucket) / times
        taken = sum(links.seconds(sums[layer]) for layer in bucket if layer in sums)
        finished = max(finished, now) + taken if taken else finished
        busy += taken
    outlasts = max(0.0, finished - now)
    return outlasts + (1 - speed.hidden) * (busy - outlasts)


def _buckets() -> list[tuple[str, ...]]:
    """The layers whose gradients are summed together, in the order of the backward pass."""
    conv1, conv2, *others = FEATURES
    return [*((layer,) for layer in reversed(CLASSIFIER)), tuple(reversed(others)), (conv2, conv1)]
