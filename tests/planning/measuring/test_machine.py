"""A whole machine measured by real ranks; an interrupted measurement goes on."""

import json
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch.distributed as dist

from launch.world import World
from model.variants import VARIANTS
from planning.formulas import Net
from planning.measuring import links, machine
from planning.measuring.machine import measure_machine
from tests.ranks import mesh_of
from training.config import Config

NARROW = {name: replace(variant, hidden=64) for name, variant in VARIANTS.items()}
NET = Net("paper", 2, channels=3, size=64, classes=10)


def _measure(path, ranks_per_node, pieces=None):
    """Measure with small messages, as nodes of so many ranks; an error after some ``pieces``."""
    rank, size = dist.get_rank(), dist.get_world_size()
    world = World(rank, size, rank % ranks_per_node, ranks_per_node, 0)
    config = Config.model_validate(
        {"data": {"name": "synthetic", "size": 64, "stored_size": 64}, "placement": "ddp"}
    )
    measured: list[Any] = []
    rehearse = machine._rehearse

    def rehearse_some(*arguments):
        if len(measured) == pieces:
            raise InterruptedError
        measured.append(arguments)
        return rehearse(*arguments)

    with (
        patch.dict(VARIANTS, NARROW),
        patch.object(machine, "launched_world", lambda: world),
        patch.object(machine, "_rehearse", rehearse_some),
        patch.object(machine, "STEPS", {1: 2, 2: 2}),
        patch.object(links, "SIZES", (1 << 10, 1 << 16)),
    ):
        try:
            found = measure_machine(config, mesh_of(config.plan(size)), NET, path)
        except InterruptedError:
            return None, len(measured)
    return found, len(measured)


def test_what_was_measured_before_an_interruption_is_kept(two_ranks, tmp_path):
    path = tmp_path / "kept.jsonl"
    assert two_ranks.run(_measure, path, 2, 3) == [(None, 3)] * 2
    with path.open("a") as file:
        file.write('{"what": ')  # cut short
    (found, first), (other, _) = two_ranks.run(_measure, path, 2)
    assert first == 8 - 3
    assert found == other
    assert [work.ranks for work in found.work] == [1, 2]
    assert (found.device, found.ranks_per_node, found.between) == ("cpu", 2, {})
    assert set(found.within) == {"exchange", "all_reduce"}
    (again, measured), _ = two_ranks.run(_measure, path, 2)
    assert (again, measured) == (found, 0)


def test_links_between_nodes_are_measured_too(four_ranks, tmp_path):
    found, _ = four_ranks.run(_measure, tmp_path / "kept.jsonl", 2)[0]
    assert found.ranks_per_node == 2
    assert set(found.within) == set(found.between) == {"exchange", "all_reduce"}


@pytest.mark.parametrize("line", ["[]", '{"what": 1, "piece": "hidden"}', "\x00"])
def test_lines_of_another_measurement_are_passed_over(tmp_path, line):
    good = {"what": ["here"], "piece": "hidden", "found": 0.5}
    (tmp_path / "kept.jsonl").write_text(f"{line}\n{json.dumps(good)}\n")
    assert machine._read(tmp_path / "kept.jsonl", ["here"]) == {"hidden": 0.5}
