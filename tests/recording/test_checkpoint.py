"""Checkpoints are whole or refused, never half-written, never executed."""

import json
import os
import re

import pytest
import torch
from safetensors.torch import load_file

from common.errors import ReportedError
from recording.checkpoint import (
    Content,
    list_checkpoints,
    newest_checkpoint,
    prune_checkpoints,
    read_tensors,
    verify_checkpoint,
    write_checkpoint,
)
from tests.disks import files_of_at_most
from tests.recording.samples import correct_manifest
from training.config import Config

WEIGHT = torch.arange(6.0).view(2, 3)
CONTENT = Content(
    {"conv1.weight": WEIGHT},
    {"momentum_buffer/conv1.weight": -WEIGHT},
    {"config": Config().model_dump(mode="json"), "totals": {"images": 2}},
)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture
def checkpoint(folder):
    path = folder / "step-00000001"
    write_checkpoint(path, CONTENT)
    return path


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read(checkpoint):
    path, state = newest_checkpoint(checkpoint.parent)
    assert path == checkpoint
    assert state == CONTENT.state
    assert torch.equal(read_tensors(path)["conv1.weight"], WEIGHT)
    [(name, tensor)] = load_file(path / "optimizer.safetensors").items()
    assert name == "momentum_buffer/conv1.weight"
    assert torch.equal(tensor, -WEIGHT)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_flipped_bit_is_noticed_and_named(checkpoint, file):
    with (checkpoint / file).open("r+b") as opened:
        opened.seek(-3, os.SEEK_END)
        byte = opened.read(1)
        opened.seek(-3, os.SEEK_END)
        opened.write(bytes([byte[0] ^ 1]))
    with pytest.raises(ReportedError, match=f"{checkpoint}.*{file}"):
        newest_checkpoint(checkpoint.parent)


def test_a_truncated_file_is_noticed_and_named(checkpoint):
    os.truncate(checkpoint / "model.safetensors", 10)
    with pytest.raises(ReportedError, match=r"model\.safetensors"):
        newest_checkpoint(checkpoint.parent)


@pytest.mark.parametrize("file", ["manifest.json", "optimizer.safetensors"])
def test_a_missing_file_is_named(checkpoint, file):
    (checkpoint / file).unlink()
    with pytest.raises(ReportedError, match=file):
        newest_checkpoint(checkpoint.parent)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(checkpoint, caplog):
    newer = checkpoint.with_name("step-00000002")
    write_checkpoint(newer, CONTENT)
    os.truncate(newer / "optimizer.safetensors", 10)
    assert newest_checkpoint(checkpoint.parent)[0] == checkpoint
    assert "step-00000002" in caplog.text


def test_a_damaged_checkpoint_is_replaced_when_training_comes_there_again(checkpoint):
    (checkpoint / "manifest.json").unlink()
    write_checkpoint(checkpoint, CONTENT)
    assert newest_checkpoint(checkpoint.parent)[0] == checkpoint


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(ReportedError, match=re.escape(str(tmp_path))):
        newest_checkpoint(tmp_path)


def test_settings_with_old_keys_are_read_with_today_s(checkpoint):
    state = json.loads((checkpoint / "state.json").read_text())
    state["config"]["data"]["deviation"] = state["config"]["data"].pop("std")
    state["config"]["initial_values"] = state["config"].pop("init")
    (checkpoint / "state.json").write_text(json.dumps(state))
    correct_manifest(checkpoint)
    assert verify_checkpoint(checkpoint) == CONTENT.state


def test_a_full_disk_hurts_nothing_that_was_there(checkpoint):
    newer = checkpoint.with_name("step-00000002")
    with files_of_at_most(100), pytest.raises(ReportedError, match=str(newer)):
        write_checkpoint(newer, CONTENT)
    assert _names(checkpoint.parent) == ["step-00000001"]
    assert newest_checkpoint(checkpoint.parent)[0] == checkpoint


def test_what_a_killed_process_left_half_written_goes(folder):
    (folder / ".step-00000009.part").mkdir(parents=True)
    write_checkpoint(folder / "step-00000010", CONTENT)
    assert _names(folder) == ["step-00000010"]


def _make(folder, *steps):
    for step in steps:
        (folder / f"step-{step:08d}").mkdir(parents=True)


def test_the_oldest_are_pruned(folder):
    _make(folder, 9, 10, 11)
    prune_checkpoints(folder / "step-00000011", 2, set())
    assert [path.name for path in list_checkpoints(folder)] == ["step-00000010", "step-00000011"]


def test_a_later_one_that_was_passed_over_does_not_count_as_newest(folder):
    _make(folder, 3, 5, 6, 7)
    prune_checkpoints(folder / "step-00000006", 2, {"step-00000003"})
    assert _names(folder) == ["step-00000003", "step-00000005", "step-00000006"]
