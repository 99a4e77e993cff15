"""Known devices and links, for a machine that cannot be measured.

A device's rate is what one of them reached on a net like this one, not the peak of its data sheet:
for AlexNet fp32 runs at 138 to 160 % of a P100's or V100's nominal peak, TF32 at 21 to 32 % of an
A100's. Every layer gets the same rate, so such a machine says less than a measured one.
"""

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from common.errors import ReportedError
from distributed.plan import plan_alone
from planning.job import Job
from planning.links import Collective, Link
from planning.machine import LayerWork, Line, Machine, Work
from planning.work import bytes_moved, parts_of

Row = TypeVar("Row")

PUBLISHED_FLOP = 4.89e9
"""Floating-point operations to train the published net (64-192-384-384-256, 227 px) on an image."""
LAUNCH = 20e-6
"""Seconds in which a GPU begins a layer; an assumption."""


class Device(NamedTuple):
    """A GPU: images/s on the published net by precision, bytes, bytes/s of memory, and sources."""

    images_per_second: dict[str, float]
    memory: float
    memory_rate: float
    source: str


LAMBDA = "lambdal/lambda-tensorflow-benchmark, logs, one GPU"
TENSORFLOW = "tensorflow/docs r1, performance/benchmarks, one GPU"

DEVICES = {
    "a100": Device({"fp32": 10187, "fp16": 16487}, 40e9, 1555e9, LAMBDA),
    "a6000": Device({"fp32": 7096, "fp16": 10001}, 48e9, 768e9, LAMBDA),
    "v100": Device({"fp32": 5132, "fp16": 9319}, 32e9, 900e9, LAMBDA),
    "rtx3090": Device({"fp32": 6744, "fp16": 9473}, 24e9, 936e9, LAMBDA),
    "rtx2080ti": Device({"fp32": 4003, "fp16": 5223}, 11e9, 616e9, LAMBDA),
    "rtx8000": Device({"fp32": 4511, "fp16": 6990}, 48e9, 672e9, LAMBDA),
    "p100": Device({"fp32": 2987}, 16e9, 732e9, TENSORFLOW),
    "k80": Device({"fp32": 684}, 12e9, 240e9, TENSORFLOW),
}
"""fp32 is TF32 on the a100, a6000 and rtx3090. Memory and its rate are from data sheets."""
HAVE_BF16 = {"a100", "a6000", "rtx3090"}
"""Those that compute in bf16, which is taken to be as fast as fp16."""


class Wire(NamedTuple):
    """Bytes/s of a rank that sends alone, of all of a node's, and seconds of a message."""

    bandwidth: float
    shared: float | None
    latency: float


WIRES = {
    "nvswitch": Wire(138e9, None, 20e-6),
    "nvlink": Wire(26e9, None, 20e-6),
    "pcie4": Wire(20e9, 40e9, 25e-6),
    "pcie3": Wire(10e9, 20e9, 25e-6),
    "infiniband": Wire(12.5e9, 12.5e9, 10e-6),
    "100gbe": Wire(12.5e9, 12.5e9, 30e-6),
    "25gbe": Wire(3.1e9, 3.1e9, 40e-6),
    "10gbe": Wire(1.25e9, 1.25e9, 50e-6),
}
"""nvswitch and nvlink as fitted to published runs of two devices; the others are nominal rates of
one port for a node, with assumed latencies."""


def known_machine(
    device: str, precision: str, job: Job, ranks_per_node: int, within: str, between: str
) -> Machine:
    """A machine of the tables for a job, marked as such; raises ReportedError for unknown names."""
    row = _row(DEVICES, device, "device")
    wanted = "fp16" if precision == "bf16" and device in HAVE_BF16 else precision
    if wanted not in row.images_per_second:
        raise ReportedError(
            f"no rate of {device} in {precision} is known: set precision to one of "
            f"{', '.join(row.images_per_second)}, or measure the machine with check.py"
        )
    flops = row.images_per_second[wanted] * PUBLISHED_FLOP
    width = 4 if wanted == "fp32" else 2
    layers = []
    for name, part in parts_of(job.net, plan_alone(job.net.towers), 1).items():
        fixed = LAUNCH + width * part.parameters / row.memory_rate
        forward = Line(fixed=fixed, each=2 * part.macs / flops)
        backward = Line(fixed=2 * fixed, each=(2 if name == "conv1" else 4) * part.macs / flops)
        layers.append(
            LayerWork(
                layer=name,
                macs=part.macs,
                parameters=part.parameters,
                forward=forward,
                backward=backward,
            )
        )
    work = Work(
        ranks=1,
        layers=layers,
        input=Line(fixed=LAUNCH, each=0.0),
        optimizer=Line(fixed=LAUNCH, each=bytes_moved(job.moments) / row.memory_rate),
        hidden=0.9,
    )
    return Machine(
        device=device,
        source="data sheet",
        precision=precision,
        ranks_per_node=ranks_per_node,
        memory=row.memory,
        work=[work],
        within=_links(within),
        between=_links(between),
    )


def _links(name: str) -> dict[Collective, Link]:
    link = Link(**_row(WIRES, name, "link")._asdict())
    return {"exchange": link, "all_reduce": link}


def _row(table: Mapping[str, Row], name: str, what: str) -> Row:
    if name not in table:
        raise ReportedError(f"no {what} {name!r} is known: choose from {', '.join(table)}")
    return table[name]
