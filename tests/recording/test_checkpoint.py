"""Checkpoints are whole or refused, never half-written, never executed."""

import hashlib
import json
import os
import pickle
import re
import shutil

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from common.errors import ReportedError
from data.loading import Batch
from distributed.mesh import Mesh, plan_mesh
from recording.checkpoint import newest_checkpoint
from recording.snapshots import CheckpointWriter, load_checkpoint
from recording.totals import Totals
from tests.disks import files_of_at_most
from training.batches import LocalBatch, make_preprocess
from training.config import Config
from training.trainer import Trainer, build_model


@pytest.fixture(scope="module")
def mesh():
    yield Mesh.start(plan_mesh(1, 2, "local"))
    dist.destroy_process_group()


def make_trainer(mesh, **settings):
    settings = {"variant": "d2l", "keep_checkpoints": 2, "data": {"size": 64}, **settings}
    config = Config.model_validate(settings)
    model = build_model(config, mesh, classes=10, channels=1)
    return Trainer(config, mesh, model, make_preprocess(config, 1), total_steps=9)


def save_checkpoint(folder, trainer, totals):
    with CheckpointWriter(folder, trainer, None) as writer:
        writer.save(totals)
        return writer.finish()


@pytest.fixture(scope="module")
def trainer(mesh):
    """A trainer after one step."""
    trainer = make_trainer(mesh)
    images = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    batch = Batch(images, torch.tensor([0, 1]), torch.tensor([0, 1]))
    trainer.train_step(LocalBatch(batch, 2, 0, 0.1))
    return trainer


@pytest.fixture(scope="module")
def saved(trainer, tmp_path_factory):
    """A run's folder of checkpoints, holding one; only to be read."""
    folder = tmp_path_factory.mktemp("saved")
    save_checkpoint(folder, trainer, Totals(images=2, test={"test/top1": 0.5}))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def checkpoint(saved, tmp_path):
    """A copy of the one checkpoint, to be spoilt."""
    shutil.copytree(saved, tmp_path / "checkpoints")
    yield tmp_path / "checkpoints" / "step-00000001"
    shutil.rmtree(tmp_path / "checkpoints")


def test_what_was_saved_is_loaded(saved, trainer, mesh):
    path, state = newest_checkpoint(saved)
    fresh = make_trainer(mesh, seed=1)
    load_checkpoint(path, state, fresh)
    assert fresh.steps == 1
    assert Totals(**state["totals"]) == Totals(images=2, test={"test/top1": 0.5})
    for ours, theirs in zip(trainer.model.parameters(), fresh.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        momenta = [
            each.optimizer.state[parameter]["momentum_buffer"]
            for each, parameter in ((trainer, ours), (fresh, theirs))
        ]
        assert torch.equal(*momenta)
        assert momenta[1].stride() == theirs.stride()


def test_the_files_are_safetensors_in_the_local_layout(saved):
    tensors = load_file(saved / "step-00000001" / "model.safetensors")
    assert tensors["conv2.weight"].shape == (256, 48, 5, 5)
    assert tensors["fc8.weight"].shape == (10, 4096)


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
    os.truncate(checkpoint / "model.safetensors", 1000)
    with pytest.raises(ReportedError, match=r"model\.safetensors"):
        newest_checkpoint(checkpoint.parent)


@pytest.mark.parametrize("file", ["manifest.json", "optimizer.safetensors"])
def test_a_missing_file_is_named(checkpoint, file):
    (checkpoint / file).unlink()
    with pytest.raises(ReportedError, match=file):
        newest_checkpoint(checkpoint.parent)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(checkpoint, caplog):
    newer = checkpoint.with_name("step-00000002")
    shutil.copytree(checkpoint, newer)
    os.truncate(newer / "optimizer.safetensors", 100)
    assert newest_checkpoint(checkpoint.parent)[0] == checkpoint
    assert "step-00000002" in caplog.text


def test_a_damaged_checkpoint_is_replaced_when_training_comes_there_again(checkpoint, trainer):
    (checkpoint / "manifest.json").unlink()
    save_checkpoint(checkpoint.parent, trainer, Totals())
    assert newest_checkpoint(checkpoint.parent)[0] == checkpoint


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(ReportedError, match=re.escape(str(tmp_path))):
        newest_checkpoint(tmp_path)


class _Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_in_place_of_weights_is_never_executed(checkpoint, trainer, tmp_path):
    payload = pickle.dumps(_Hostile(str(tmp_path / "executed")))
    (checkpoint / "model.safetensors").write_bytes(payload)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["model.safetensors"] = hashlib.sha256(payload).hexdigest()
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    path, state = newest_checkpoint(checkpoint.parent)
    with pytest.raises(ReportedError, match=r"model\.safetensors"):
        load_checkpoint(path, state, trainer)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"variant": "paper"}, r"fc6\.weight"), ({"towers": 1}, r"conv2\.weight")],
)
def test_another_net_s_checkpoint_is_refused_with_a_shape(saved, mesh, settings, named):
    path, state = newest_checkpoint(saved)
    with pytest.raises(ReportedError, match=named):
        load_checkpoint(path, state, make_trainer(mesh, **settings))


def test_a_full_disk_hurts_nothing_that_was_there(checkpoint, trainer):
    folder = checkpoint.parent
    trainer.steps = 2
    with (
        files_of_at_most(10**6),
        pytest.raises(ReportedError, match=r"step-00000002"),
    ):
        save_checkpoint(folder, trainer, Totals())
    trainer.steps = 1
    assert [path.name for path in folder.iterdir()] == ["step-00000001"]
    assert newest_checkpoint(folder)[0] == checkpoint


def test_the_oldest_are_pruned(trainer, tmp_path):
    for step in (9, 10, 11):
        trainer.steps = step
        save_checkpoint(tmp_path, trainer, Totals())
    trainer.steps = 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000011"]
    shutil.rmtree(tmp_path)


def test_the_best_is_kept(trainer, tmp_path):
    totals = Totals()
    with CheckpointWriter(tmp_path, trainer, None) as writer:
        for step, top1 in ((1, 0.3), (2, 0.8), (3, 0.5), (4, 0.6), (5, 0.7)):
            trainer.steps = step
            totals.tested(step, {"test/top1": top1})
            assert writer.is_due(totals) == (step <= 2)
            writer.save(totals)
        assert writer.finish() == tmp_path / "step-00000005"
    trainer.steps = 1
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["step-00000002", "step-00000004", "step-00000005"]
    shutil.rmtree(tmp_path)


def test_a_later_one_that_was_passed_over_does_not_count_as_newest(trainer, tmp_path):
    (tmp_path / "step-00000007").mkdir()
    for step in (4, 5, 6):
        trainer.steps = step
        save_checkpoint(tmp_path, trainer, Totals())
    trainer.steps = 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000005", "step-00000006"]
    shutil.rmtree(tmp_path)


def test_what_a_killed_process_left_half_written_goes(trainer, tmp_path):
    (tmp_path / ".step-00000009.part").mkdir()
    save_checkpoint(tmp_path, trainer, Totals())
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    shutil.rmtree(tmp_path)


def test_training_goes_on_while_a_checkpoint_is_written(mesh, trainer, tmp_path):
    expected = [parameter.clone() for parameter in trainer.model.parameters()]
    with CheckpointWriter(tmp_path, trainer, None) as writer, torch.no_grad():
        writer.save(Totals())
        for parameter in trainer.model.parameters():
            parameter.add_(1)
        writer.finish()
        for parameter, before in zip(trainer.model.parameters(), expected, strict=True):
            parameter.copy_(before)
    fresh = make_trainer(mesh, seed=1)
    load_checkpoint(*newest_checkpoint(tmp_path), fresh)
    assert all(map(torch.equal, fresh.model.parameters(), expected))
    shutil.rmtree(tmp_path)


def test_a_refused_checkpoint_may_be_gone_on_without(mesh, checkpoint, caplog):
    going_on = make_trainer(mesh, write_errors="continue")
    with CheckpointWriter(checkpoint.parent, going_on, checkpoint) as writer:
        with files_of_at_most(10**6):
            going_on.steps = 2
            writer.save(Totals())
            going_on.steps = 3
            writer.save(Totals())
            assert caplog.text.count("step-00000002") == 1
            with pytest.raises(ReportedError, match="step-00000003"):
                writer.finish()
        going_on.steps = 4
        writer.save(Totals())
        assert writer.finish() == checkpoint.with_name("step-00000004")


def test_weights_that_are_not_finite_are_not_saved(mesh, checkpoint):
    spoilt = make_trainer(mesh)
    with torch.no_grad():
        spoilt.model.fc7.weight[3, 3] = float("inf")
    with pytest.raises(ReportedError, match=r"fc7\.weight"):
        save_checkpoint(checkpoint.parent, spoilt, Totals())
    assert [path.name for path in checkpoint.parent.iterdir()] == ["step-00000001"]


def test_a_net_without_momentum_is_saved_and_loaded(mesh, tmp_path):
    trainer = make_trainer(mesh, optimizer={"momentum": 0.0})
    save_checkpoint(tmp_path, trainer, Totals())
    load_checkpoint(*newest_checkpoint(tmp_path), make_trainer(mesh, optimizer={"momentum": 0.0}))
    shutil.rmtree(tmp_path)
