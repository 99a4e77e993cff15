"""Measuring a whole machine: what ``check.py`` writes and ``plan.py`` reads."""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist

from common.cpu import host_memory
from common.files import read_objects, writing
from distributed.device import name_of
from distributed.mesh import Mesh
from distributed.plan import Grid, Plan
from launch.threads import usable_cores
from launch.world import launched_world
from planning.formulas import Net
from planning.machine import Line, Machine, Work
from planning.measuring.layers import Rehearsal, layer_rows, wait_for_times
from planning.measuring.lines import fit
from planning.measuring.links import Group, measure_hidden, measure_links
from planning.search import plans
from training.batches import make_preprocess
from training.config import Config

log = logging.getLogger(__name__)

STEPS = {8: 5, 32: 5, 128: 3}
"""Own images of the steps that make a line, and how many steps are timed."""


class Piece(NamedTuple):
    """A part of the measurement that is kept by its name; ``measure`` runs on every rank."""

    name: str
    measure: Callable[[], Any]


def measure_machine(config: Config, mesh: Mesh, net: Net, kept: Path) -> Machine:
    """Measure the launched ranks' devices and links; every rank must call it.

    Each piece is kept in the file ``kept`` at once. Those that it holds, from a measurement of the
    same devices, net and settings that was interrupted, are not measured again.
    """
    world = launched_world()
    what: list[Any] = [name_of(mesh.device), world.size, world.local_size, torch.__version__]
    what += [repr(net), config.precision, config.channels_last, config.overlap_communication]
    what += [torch.get_num_threads()]
    what += [section.model_dump(mode="json") for section in (config.optimizer, config.data)]
    found: dict[str, Any] = mesh.from_main(lambda: _read(kept, what))
    pieces = list(_pieces(config, mesh, net))
    for number, piece in enumerate(pieces, start=1):
        if piece.name not in found:
            log.info("[%d/%d] measuring %s", number, len(pieces), piece.name)
            found[piece.name] = piece.measure()
            if mesh.is_main:
                _keep(kept, {"what": what, "piece": piece.name, "found": found[piece.name]})
    return mesh.from_main(lambda: _assemble(config, mesh, found))


def _pieces(config: Config, mesh: Mesh, net: Net) -> Iterator[Piece]:
    world = launched_world()
    at_once = {(1, 1), (world.local_size, world.local_size), (world.local_size, world.size)}
    for (ranks, size), towers in product(sorted(at_once), sorted({1, net.towers})):
        form = replace(net, towers=towers)
        for plan in plans(size, towers, net.variant):
            both = (plan.features, plan.classifier)
            grids = " and ".join(f"{grid.shards}×{grid.replicas}" for grid in both)
            yield Piece(
                f"{ranks} at once: {towers} towers, {grids}",
                partial(_rehearse, config, mesh, form, plan, ranks),
            )
    if world.size > 1:
        yield Piece("hidden", partial(measure_hidden, mesh))
    if world.local_size > 1:
        yield Piece("links within", partial(_links, mesh, *_within()))
    if world.size > world.local_size:
        yield Piece("links between", partial(_links, mesh, *_between()))


def _rehearse(config: Config, mesh: Mesh, net: Net, plan: Plan, ranks: int) -> dict[str, Any]:
    """The lines of a plan's layers while the first ``ranks`` of each node work; JSON's types.

    The other ranks wait, and leave their cores to these.
    """
    steps, threads = [], torch.get_num_threads()
    if launched_world().local_rank < ranks:
        if mesh.device.type == "cpu":
            left = threads * launched_world().local_size // ranks
            torch.set_num_threads(min(left, usable_cores()))
        preprocess = make_preprocess(config, net.channels)
        rehearsal = Rehearsal(config, plan, net, preprocess, mesh.device)
    for images, count in STEPS.items():
        if launched_world().local_rank < ranks:
            steps.append(rehearsal.times(images, count, mesh.largest))
        else:
            wait_for_times(count, mesh.largest)
    torch.set_num_threads(threads)
    if not steps:
        return {}
    return {
        "layers": [row.model_dump() for row in layer_rows(net, plan, steps)],
        "input": [[step.images, step.input] for step in steps],
        "optimizer": [[step.parameters, step.optimizer] for step in steps],
    }


def _links(mesh: Mesh, some: Group, everyone: Group, senders: int) -> dict[str, Any]:
    found = measure_links(mesh, some, everyone, senders)
    return {name: link.model_dump() for name, link in found.items()}


def _within() -> tuple[Group, Group, int]:
    """The first two ranks of a node, all of them, and how many send."""
    world = launched_world()
    nodes = Grid(world.local_size, world.size // world.local_size)
    pairs = [ranks[:2] for ranks in nodes.copies()]
    return _own(pairs), _own(nodes.copies()), world.local_size


def _between() -> tuple[Group, Group, int]:
    """The first rank of every node, those of the same place in theirs, and how many send."""
    world = launched_world()
    nodes = Grid(world.local_size, world.size // world.local_size).copies()
    across = [list(column) for column in zip(*nodes, strict=True)]
    return _own(across[:1]), _own(across), world.local_size


def _own(groups: list[list[int]]) -> Group:
    """This rank's group, None without one; every rank must ask for the same ones."""
    made = [(ranks, dist.new_group(ranks)) for ranks in groups]
    return next((cast(Group, group) for ranks, group in made if dist.get_rank() in ranks), None)


def _assemble(config: Config, mesh: Mesh, found: dict[str, Any]) -> Machine:
    world = launched_world()
    works = []
    for ranks in sorted({1, world.local_size}):
        own = [each for name, each in found.items() if name.startswith(f"{ranks} at once")]
        works.append(
            Work(
                ranks=ranks,
                layers=list(chain.from_iterable(each["layers"] for each in own)),
                input=_line(own, "input"),
                optimizer=_line(own, "optimizer"),
                hidden=found.get("hidden", 1.0),
            )
        )
    return Machine(
        device=name_of(mesh.device),
        source="measured",
        precision=config.precision,
        ranks_per_node=world.local_size,
        memory=_memory(mesh.device) / (world.local_size if mesh.device.type == "cpu" else 1),
        work=works,
        within=found.get("links within", {}),
        between=found.get("links between", {}),
    )


def _line(pieces: list[dict[str, Any]], part: str) -> Line:
    return fit((count, seconds) for piece in pieces for count, seconds in piece[part])


def _memory(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return float(host_memory())


def _read(path: Path, what: list[Any]) -> dict[str, Any]:
    """The pieces of a file that were found on the same devices."""
    return {each["piece"]: each["found"] for each in read_objects(path) if each.get("what") == what}


def _keep(path: Path, piece: dict[str, Any]) -> None:
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(f"\n{json.dumps(piece)}\n")  # apart from a line that was cut short
