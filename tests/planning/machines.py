"""Machines with round numbers."""

from planning.formulas import Net
from planning.links import Link
from planning.machine import LayerWork, Line, Machine, Work
from planning.work import parts_of
from tests.planning.plans import LOCAL

PAPER = Net("paper", 2, channels=3, size=224, classes=1000)
FLOPS = 1e12


def make_work(ranks=1, net=PAPER, hidden=1.0, fixed=0.0):
    """A rank that multiplies and adds ``FLOPS``/2 times a second, and updates 1e9 parameters."""
    rows = [
        LayerWork(
            layer=name,
            macs=part.macs,
            parameters=part.parameters,
            forward=Line(fixed=fixed, each=2 * part.macs / FLOPS),
            backward=Line(fixed=fixed, each=4 * part.macs / FLOPS),
        )
        for name, part in parts_of(net, LOCAL, 1).items()
    ]
    lines = {"input": Line(fixed=0, each=0), "optimizer": Line(fixed=0, each=1e-9)}
    return Work(ranks=ranks, layers=rows, hidden=hidden, **lines)


def make_links(bandwidth=1e9, latency=0.0, shared=None):
    """The same link for both collectives."""
    link = Link(latency=latency, bandwidth=bandwidth, shared=shared)
    return {"exchange": link, "all_reduce": link}


def make_machine(ranks_per_node=8, within=None, between=None, memory=1e12, **work):
    """A GPU's machine with such work; links of 1 GB/s if not said otherwise."""
    return Machine(
        device="GPU",
        source="measured",
        precision="fp32",
        ranks_per_node=ranks_per_node,
        memory=memory,
        work=[make_work(**work)],
        within=within or make_links(),
        between=between or {},
    )
