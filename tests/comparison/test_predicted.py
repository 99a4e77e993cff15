"""The machine's file with which a comparison predicts."""

import pytest

from common.errors import ReportedError
from comparison.predicted import usable_machine
from planning.machine import read_machine, write_machine
from tests.planning.machines import make_machine
from training.config import Config


def _write(folder, machine, device="cpu"):
    path = folder / "machine.json"
    write_machine(machine.model_copy(update={"device": device}), path)
    return path


def test_a_machine_measured_in_another_precision_is_not_used(tmp_path):
    fp32, bf16 = (Config(precision=p) for p in ("fp32", "bf16"))
    fp32, bf16 = (config.model_copy(update={"runs": tmp_path}) for config in (fp32, bf16))
    assert usable_machine(None, fp32, 2) is None
    path = _write(tmp_path, make_machine())
    assert usable_machine(None, bf16, 2) is None
    assert usable_machine(None, fp32, 2) == usable_machine(path, fp32, 2) == read_machine(path)


def test_a_machine_without_links_is_not_used_for_ranks(tmp_path):
    path = _write(tmp_path, make_machine().model_copy(update={"within": {}}))
    config = Config(precision="fp32")
    assert usable_machine(path, config, 2) is None
    assert usable_machine(path, config, 1) is not None


def test_nodes_of_fewer_ranks_do_not_stand_for_this_one(tmp_path):
    path = _write(tmp_path, make_machine(ranks_per_node=2))
    config = Config(precision="fp32")
    assert usable_machine(path, config, 2) is not None
    assert usable_machine(path, config, 4) is None


def test_a_machine_that_was_named_must_be_there_and_of_the_precision(tmp_path):
    config = Config(precision="bf16")
    with pytest.raises(ReportedError, match=r"none\.json"):
        usable_machine(tmp_path / "none.json", config, 2)
    _write(tmp_path, make_machine())
    with pytest.raises(ReportedError, match="precision=fp32"):
        usable_machine(tmp_path / "machine.json", config, 2)


def test_a_machine_that_nobody_named_ends_nothing(tmp_path):
    config = Config(precision="fp32")
    (tmp_path / "machine.json").write_text("{}")
    assert usable_machine(None, config.model_copy(update={"runs": tmp_path}), 2) is None


def test_a_machine_of_another_device_is_not_used(tmp_path):
    config = Config(precision="fp32")
    path = _write(tmp_path, make_machine(), device="GPU")
    assert usable_machine(path, config, 2) is None
