"""What is said to be there, also where tools, packages and data are missing."""

import sys

import pytest

from checking import machine
from checking.machine import describe
from checking.steps import small_config
from tests.ranks import mesh_of

FACTS = {
    *("processor", "GPUs", "ranks", "collectives", "system", "torch", "CUDA", "compilers"),
    *("torch.compile", "Fashion-MNIST", "W&B"),
}


def facts(ranks, path=None):
    """What is there, as every rank says it."""
    with pytest.MonkeyPatch.context() as patch:
        if path is not None:
            patch.setenv("PATH", str(path))
            patch.setattr(machine, "find", lambda: None)
            patch.setitem(sys.modules, "wandb", None)
        return describe(mesh_of(small_config(ranks, "fp32", placement="ddp").plan(ranks)))


def test_two_ranks_on_a_cpu_are_described(two_ranks):
    found = two_ranks.run(facts, 2)[0]
    assert set(found) == FACTS
    assert found["GPUs"] == "none"
    assert found["collectives"] == "gloo"
    assert found["ranks"].startswith("2 on cpu")


def test_a_machine_without_tools_and_data_is_described_too(two_ranks, tmp_path):
    found = two_ranks.run(facts, 2, tmp_path)[0]
    assert found["compilers"].startswith("none")
    assert found["Fashion-MNIST"].startswith("not found")
    assert found["torch.compile"].startswith("not usable")


@pytest.mark.parametrize(("status", "told"), [(0, True), (1, False)])
def test_the_topology_is_told_if_the_driver_tells_it(two_ranks, tmp_path, status, told):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho 'GPU0  X  NV18'\nexit {status}\n")
    tool.chmod(0o755)
    found = two_ranks.run(facts, 2, tmp_path)[0]
    assert ("NV18" in found.get("topology", "")) == told
