"""What a machine can do, as ``check.py`` measures it and ``plan.py`` reads it: machine.json."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from common.errors import ReportedError
from common.files import open_plain, writing
from model.alexnet import CLASSIFIER, FEATURES
from planning.links import Collective, Link, Seconds
from training.fields import Count, OneOf, Section
from training.precision import PRECISIONS

MACHINE = Path("machine.json")
"""In the folder of the runs: where check.py writes what it measures."""
LAYERS = {*FEATURES, *CLASSIFIER}
LARGEST_FILE = 2**24
"""Bytes. A machine's file has a few thousand."""


class Line(Section):
    """Seconds as a line: ``fixed`` for any work at all, and ``each`` for a unit of it."""

    fixed: Seconds
    each: Annotated[float, Field(ge=0, le=1e3)]

    def seconds(self, count: float, fixed: float = 1, each: float = 1) -> float:
        """The time for ``count`` units, with both terms scaled."""
        return fixed * self.fixed + each * self.each * count if count else 0.0


class LayerWork(Section):
    """A layer as one rank holds it, up to the next layer: activation, norm and pooling included.

    ``macs`` are its multiply-adds for an image, ``parameters`` its own, and ``pieces`` those in
    which its input arrives, each from another rank; the lines count images.
    """

    layer: str
    macs: Annotated[int, Field(gt=0, le=10**18)]
    parameters: Annotated[int, Field(gt=0, le=10**15)]
    pieces: Count = 1
    forward: Line
    backward: Line


class Work(Section):
    """How fast a rank computes while ``ranks`` ranks of a node do.

    ``input`` makes a network's input from an image, ``optimizer`` updates a parameter. ``hidden``
    is the part of a collective's time in which a rank computes as fast as without it.
    """

    ranks: Count
    layers: list[LayerWork] = Field(min_length=1)
    input: Line
    optimizer: Line
    hidden: Annotated[float, Field(ge=0, le=1)]

    @model_validator(mode="after")
    def _check_together(self) -> "Work":
        known = {row.layer for row in self.layers}
        if missing := sorted(LAYERS - known):
            raise ValueError(f"layers lacks {', '.join(missing)}")
        if not any(row.forward.fixed + row.forward.each for row in self.layers):
            raise ValueError("no layer takes any time")
        return self


class Machine(Section):
    """Nodes of ``ranks_per_node`` ranks, one for each device.

    ``within`` and ``between`` are the links of a node's ranks and of the nodes, by collective.
    ``memory`` is a rank's, in bytes. ``source`` says where the numbers are from; ``precision`` is
    that of the measurements.
    """

    version: Literal[1] = 1
    device: str = Field(max_length=200)
    source: Literal["measured", "data sheet"]
    precision: Annotated[str, OneOf(PRECISIONS)]
    ranks_per_node: Count
    memory: Annotated[float, Field(gt=0, le=1e18)]
    work: list[Work] = Field(min_length=1)
    within: dict[Collective, Link] = Field({})
    between: dict[Collective, Link] = Field({})

    @model_validator(mode="after")
    def _check_together(self) -> "Machine":
        for name, links in (("within", self.within), ("between", self.between)):
            if links and len(links) < 2:
                raise ValueError(f"{name} needs exchange and all_reduce")
        return self

    def connects(self, ranks: int) -> bool:
        """True if so many ranks fill nodes, and the links among them are known."""
        here = self.ranks_per_node
        if ranks <= here:
            return ranks == 1 or bool(self.within)
        has_links = self.between or self.within
        return ranks % here == 0 and bool(has_links and (self.within or here == 1))

    def in_nodes_of(self, ranks: int) -> "Machine":
        """The machine with another number of ranks on a node; those of a CPU share its memory."""
        shared = self.ranks_per_node / ranks if self.device == "cpu" else 1
        update = {"ranks_per_node": ranks, "memory": self.memory * shared}
        return self.model_copy(update=update)

    def work_of(self, ranks: int) -> Work:
        """The work that was measured with the number of ranks nearest to ``ranks`` a node."""
        return min(self.work, key=lambda work: (abs(work.ranks - ranks), work.ranks))


def read_machine(path: Path, precision: str | None = None) -> Machine:
    """Read a machine's file.

    Raises ReportedError if it is not one, or not whole, or was measured in another ``precision``.
    """
    machine = _read(path)
    if precision not in (None, machine.precision):
        raise ReportedError(
            f"{path} was measured in {machine.precision}, and the configuration's precision is "
            f"{precision}: set precision={machine.precision}, or measure again"
        )
    return machine


def _read(path: Path) -> Machine:
    try:
        with open_plain(path, LARGEST_FILE) as file:
            return Machine.model_validate_json(file.read())
    except OSError as error:
        raise ReportedError(f"cannot read {path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "its text"
        raise ReportedError(
            f"{path} is no machine's file of this version: {place}: {first['msg']}; make one with "
            "check.py"
        ) from None


def write_machine(machine: Machine, path: Path) -> None:
    """Write a machine's file."""
    with writing(path):
        path.write_text(machine.model_dump_json(indent=1) + "\n", encoding="utf-8")
