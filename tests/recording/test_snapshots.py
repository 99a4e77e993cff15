"""A run that is continued from a checkpoint, on any mesh, equals one that was not interrupted."""

import hashlib
import json
import shutil
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file, save_file

from data.loading import Batch
from distributed.mesh import Mesh, plan_mesh
from model.variants import VARIANTS
from recording.checkpoint import list_checkpoints, newest_checkpoint, write_checkpoint
from recording.snapshots import load_checkpoint, take_snapshot
from recording.totals import Totals
from training.batches import LocalBatch, make_preprocess
from training.config import Config
from training.settings import check_same_run
from training.trainer import Trainer, build_model

STOP, STEPS = 3, 6
CLASSES = 10
TINY = {"d2l": replace(VARIANTS["d2l"], convolutions=(8, 8, 8, 8, 8), hidden=16)}
ADAMW = {"name": "adamw", "learning_rate": 0.001, "weight_decay": 0.01}
SGD = {"name": "sgd", "momentum": 0.9}


def _settings(optimizer, schedule="cosine", **more):
    return {
        "variant": "d2l",
        "precision": "fp64",
        "data": {"size": 64, "std": 90.0},
        "optimizer": optimizer,
        "schedule": {"name": schedule},
        **more,
    }


def _trainer(settings, world_size, placement):
    config = Config.model_validate({**settings, "placement": placement})
    plan = plan_mesh(world_size, config.towers, placement)
    mesh = Mesh.over_running_group(plan, torch.device("cpu"))
    model = build_model(config, mesh, CLASSES, 1)
    return Trainer(config, mesh, model, make_preprocess(config, 1), STEPS)


def _local_batch(mesh, step):
    """This replica's part of four random images, the same ones on every mesh."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, CLASSES, (4,), generator=generator)
    parts = (
        part.tensor_split(mesh.plan.replicas)[mesh.replica]
        for part in (images, labels, torch.arange(4) + 10 * step)
    )
    return LocalBatch(Batch(*parts), 4, 0, (step + 1) / STEPS)


@patch.dict(VARIANTS, TINY)
def train(settings, world_size, placement, last, target, source=None):
    """Train to step ``last``, from the checkpoint ``source`` if given, and save in ``target``."""
    trainer = _trainer(settings, world_size, placement)
    if source:
        load_checkpoint(*newest_checkpoint(source), trainer)
    while trainer.steps < last:
        trainer.train_step(_local_batch(trainer.mesh, trainer.steps))
    content = take_snapshot(trainer, Totals())
    if trainer.mesh.is_main:
        write_checkpoint(target / f"step-{last:08d}", content)


def _read(folder):
    """The tensors of weights and optimiser, and the scalars, of the newest checkpoint."""
    path, state = newest_checkpoint(folder)
    files = ("model.safetensors", "optimizer.safetensors")
    tensors = {f"{file}: {name}": t for file in files for name, t in load_file(path / file).items()}
    return tensors, state["optimizer"], state["trainer"]["schedule"]["learning_rate"]


def _largest_error(found, expected):
    assert found.keys() == expected.keys()
    errors = [
        float((found[name] - t).abs().max() / t.abs().max().clamp_min(1e-12))
        for name, t in expected.items()
    ]
    return max(errors)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, two_ranks):
    """Gives, for an optimiser: a run that stopped on two split ranks, and one that did not."""
    made = {}

    def run(name, settings):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            two_ranks.run(train, settings, 2, "split", STOP, folder / "stopped")
            two_ranks.run(train, settings, 2, "split", STEPS, folder / "undisturbed")
            made[name] = folder
        return made[name]

    yield run
    for folder in made.values():
        shutil.rmtree(folder)


@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=lambda optimizer: optimizer["name"])
@pytest.mark.parametrize(
    ("pool", "placement", "error"),
    [("two_ranks", "split", 0.0), ("one_rank", "local", 1e-9), ("two_ranks", "local", 1e-9)],
    ids=["two split ranks", "one process", "two replicas"],
)
def test_a_run_continues_on_any_mesh_as_if_it_had_not_stopped(
    request, runs, tmp_path, optimizer, pool, placement, error
):
    settings = _settings(optimizer)
    folder = runs(optimizer["name"], settings)
    ranks = request.getfixturevalue(pool)
    ranks.run(train, settings, len(ranks.pipes), placement, STEPS, tmp_path, folder / "stopped")
    found, expected = _read(tmp_path), _read(folder / "undisturbed")
    assert _largest_error(found[0], expected[0]) <= error
    assert found[1:] == expected[1:]
    shutil.rmtree(tmp_path)


def test_every_state_of_an_optimiser_is_kept_under_its_own_name(runs):
    path = newest_checkpoint(runs("adamw", _settings(ADAMW)) / "stopped")[0]
    names = load_file(path / "model.safetensors").keys()
    tensors = load_file(path / "optimizer.safetensors")
    assert tensors.keys() == {
        f"{key}/{name}" for key in ("exp_avg", "exp_avg_sq") for name in names
    }
    assert tensors["exp_avg_sq/conv2.weight"].shape == (8, 4, 5, 5)
    state = json.loads((path / "state.json").read_text())
    assert state["optimizer"] == {f"step/{name}": STOP for name in names}


def _age(folder):
    """Rewrite a checkpoint as the version before other optimisers left it."""
    [path] = list_checkpoints(folder)
    momentum = load_file(path / "optimizer.safetensors")
    save_file(
        {name.removeprefix("momentum_buffer/"): t for name, t in momentum.items()},
        path / "optimizer.safetensors",
    )
    state = json.loads((path / "state.json").read_text())
    config = state["config"]
    for key in ("name", "betas", "eps"):
        del config["optimizer"][key]
    del state["optimizer"], config["overlap_communication"]
    config["initial_values"] = config.pop("init")
    config["data"]["deviation"] = config["data"].pop("std")
    config["optimizer"]["accumulation"] = config["optimizer"].pop("gradient_accumulation")
    state["totals"].update(bytes_sent=7, parts={"data": 0.5})
    (path / "state.json").write_text(json.dumps(state))
    sums = {
        file: hashlib.sha256((path / file).read_bytes()).hexdigest()
        for file in ("model.safetensors", "optimizer.safetensors", "state.json")
    }
    (path / "manifest.json").write_text(json.dumps(sums))


def test_a_checkpoint_from_before_other_optimisers_is_continued(runs, two_ranks, tmp_path):
    settings = _settings(SGD)
    folder = runs("sgd", settings)
    shutil.copytree(folder / "stopped", tmp_path / "old")
    _age(tmp_path / "old")
    state = newest_checkpoint(tmp_path / "old")[1]
    check_same_run(Config.model_validate(settings), state["config"])
    assert Totals.read(state["totals"]) == Totals()
    two_ranks.run(train, settings, 2, "split", STEPS, tmp_path / "new", tmp_path / "old")
    assert _read(tmp_path / "new")[0].keys() == _read(folder / "undisturbed")[0].keys()
    assert _largest_error(_read(tmp_path / "new")[0], _read(folder / "undisturbed")[0]) == 0
    shutil.rmtree(tmp_path)
