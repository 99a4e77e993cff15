"""Times several contestants in turn, each in its own processes.

The speed of a machine drifts, so contestants are timed as A B C A B C …, and results are medians of
the ratios within a round. The processes of a contestant sleep while others are timed, so its
threads and allocator settings do not affect the others.
"""

import argparse
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from textwrap import fill
from typing import Any

import torch.multiprocessing as mp
from tabulate import tabulate
from tqdm import tqdm
from typing_extensions import Self

from common.arguments import whole
from common.files import home_path, writing
from comparison.machine import describe_machine, in_words

Row = dict[str, Any]
LONGEST_CELL = 52
"""Characters; longer text takes several lines."""


@dataclass
class Contestant:
    """``make(*arguments)``, called in each of ``ranks`` processes, returns the function to time."""

    name: str
    make: Callable[..., Callable[[], Any]]
    arguments: tuple[Any, ...] = ()
    ranks: int = 1

    def __enter__(self) -> Self:
        context, port = mp.get_context("spawn"), _free_port()
        self.pipes, self.processes = [], []
        for rank in range(self.ranks):
            ours, theirs = context.Pipe()
            arguments = theirs, self.make, self.arguments, rank, self.ranks, port
            # Not a daemon, which could not start workers. It ends when its pipe closes.
            process = context.Process(target=_serve, args=arguments)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)
        try:
            self.run(1)  # build and warm up
        except BaseException:
            self.__exit__()
            raise
        return self

    def run(self, calls: int) -> tuple[float, Any]:
        """Seconds per call of the slowest rank, and the last result of rank 0."""
        for pipe in self.pipes:
            pipe.send(calls)
        try:
            answers = [pipe.recv() for pipe in self.pipes]
        except EOFError:
            sys.exit(f"{self.name} failed: its error is above")
        return max(seconds for seconds, _ in answers) / calls, answers[0][1]

    def __exit__(self, *_: object) -> None:
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join(20)
            if process.is_alive():
                process.kill()


def _serve(
    pipe: Connection,
    make: Callable[..., Callable[[], Any]],
    arguments: tuple[Any, ...],
    rank: int,
    ranks: int,
    port: int,
) -> None:
    os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks)}
    if ranks > 1:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    logging.disable(logging.INFO)
    call, result = make(*arguments), None
    while True:
        try:
            calls = pipe.recv()
        except EOFError:
            return
        began = time.perf_counter()
        for _ in range(calls):
            result = call()
        pipe.send((time.perf_counter() - began, result))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Timing:
    """One contestant: seconds per call and the last result, for each round."""

    rounds: list[float] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Seconds per call, the median of the rounds."""
        return median(self.rounds)

    def times_faster_than(self, other: "Timing") -> float:
        """The median of the ratios within a round."""
        return median(b / a for a, b in zip(self.rounds, other.rounds, strict=True))


def contest(
    contestants: Sequence[Contestant], rounds: int, seconds: float = 2.0
) -> dict[str, Timing]:
    """Time each in turn, ``rounds`` times, for about ``seconds`` or longer each time."""
    timings = {each.name: Timing() for each in contestants}
    with ExitStack() as stack:
        for each in contestants:
            stack.enter_context(each)
        calls = {each.name: max(1, round(seconds / each.run(1)[0])) for each in contestants}
        bar = tqdm([each for _ in range(rounds) for each in contestants], disable=None)
        for each in bar:
            bar.set_description(each.name)
            taken, result = each.run(calls[each.name])
            timings[each.name].rounds.append(taken)
            timings[each.name].results.append(result)
    return timings


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark that times. All are for CPUs: hide any GPU."""
    made = plain_parser(description)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    made.add_argument("--rounds", type=whole(), default=5, metavar="N", help="default: %(default)s")
    return made


def plain_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--json",
        type=home_path,
        default=None,
        metavar="FILE",
        help="default: runs/benchmarks/NAME.json",
    )
    return made


def report(name: str, tables: dict[str, list[Row]], path: Path | None) -> None:
    """Print the tables, and write them as JSON with a description of the machine."""
    machine = describe_machine()
    print(f"\n{in_words(machine)}")
    for title, rows in tables.items():
        print(f"\n{title}\n{tabulate(map(_wrapped, rows), headers='keys', floatfmt='.2f')}")
    path = path or Path("runs", "benchmarks", f"{name}.json")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine, **tables}, indent=2))
    print(f"\nwritten to {path}")


def _wrapped(row: Row) -> Row:
    return {
        name: fill(cell, LONGEST_CELL) if isinstance(cell, str) else cell
        for name, cell in row.items()
    }
