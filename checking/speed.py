"""The speed of the devices and of their links, for the planner."""

from collections.abc import Iterator
from pathlib import Path

from distributed.mesh import Mesh
from distributed.plan import plan_alone
from planning.formulas import Net
from planning.job import planned
from planning.machine import Machine, Work, write_machine
from planning.measuring.machine import measure_machine
from planning.measuring.rates import call_seconds, matrix_rate, memory_rate
from planning.work import nearest, parts_of
from training.config import Config
from training.precision import PRECISIONS

NAMES = {"exchange": "exchange", "all_reduce": "sums"}


def measure_speed(config: Config, mesh: Mesh, path: Path) -> dict[str, str]:
    """Measure all ranks at once and write ``path``, a machine's file; returns facts by name.

    Every rank must call it. What an interrupted measurement has found is kept beside ``path``, and
    is not measured again.
    """
    dtype, device = PRECISIONS[config.precision].dtype, mesh.device
    rates = (matrix_rate(dtype, device), memory_rate(device), call_seconds(device))
    product, memory, call = (-mesh.largest(-rate) for rate in rates)
    net, kept = planned(config).net, path.with_name(f".{path.name}.measuring")
    machine = measure_machine(config, mesh, net, kept)
    if mesh.is_main:
        write_machine(machine, path)
        kept.unlink(missing_ok=True)
    facts = {
        "matrix products": f"{product / 1e9:.0f} GFLOP/s in {config.precision} a rank, all at once",
        "memory": f"{memory / 1e9:.1f} GB/s copied",
        "a call": f"{1e6 * call:.1f} µs",
    }
    for work in machine.work:
        facts[f"{work.ranks} rank(s)"] = _work(work, net)
    return facts | dict(_links(machine))


def _work(work: Work, net: Net) -> str:
    """The speed of the whole net in one rank, forward and backward, on many images."""
    parts = parts_of(net, plan_alone(net.towers), 1)
    rows = [nearest(work.layers, name, part) for name, part in parts.items()]
    each = sum(row.forward.each + row.backward.each for row in rows) + work.input.each
    fixed = sum(row.forward.fixed + row.backward.fixed for row in rows)
    return (
        f"{1 / each:.0f} images/s each, {1e3 * fixed:.0f} ms for any batch, "
        f"{1e9 * work.optimizer.each:.2f} ns to update a weight"
    )


def _links(machine: Machine) -> Iterator[tuple[str, str]]:
    for place in ("within", "between"):
        for collective, link in getattr(machine, place).items():
            together = f", {link.shared / 1e9:.2f} GB/s for a node" if link.shared else ""
            yield (
                f"{NAMES[collective]} {place}",
                f"{link.bandwidth / 1e9:.2f} GB/s a rank{together}, {1e6 * link.latency:.0f} µs",
            )
    if machine.within:
        yield "hidden", f"{machine.work[-1].hidden:.0%} of an all-reduce, by matrix products"
