"""Snapshots of a trainer: exact on any placement, written while it trains, kept as configured."""

import json
import shutil
from dataclasses import replace
from functools import cache
from itertools import product
from typing import NamedTuple
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from common.errors import ReportedError
from data.loading import Batch
from distributed.mesh import Mesh
from model.variants import VARIANTS
from recording.checkpoint import list_checkpoints, newest_checkpoint, write_checkpoint
from recording.snapshots import CheckpointWriter, load_checkpoint, take_snapshot
from recording.totals import Totals
from tests.disks import files_of_at_most
from tests.recording.samples import correct_manifest
from training.batches import LocalBatch, make_preprocess
from training.config import Config
from training.settings import check_same_run
from training.trainer import Trainer, build_model

STOP, STEPS = 3, 6
CLASSES = 10
TINY = {"d2l": replace(VARIANTS["d2l"], convolutions=(8, 8, 8, 8, 8), hidden=24)}
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


@cache
def _mesh(plan):
    """One mesh for each plan: process groups are not given back."""
    return Mesh.over_running_group(plan, torch.device("cpu"))


def _trainer(settings, world_size, placement):
    config = Config.model_validate({**settings, **placement})
    mesh = _mesh(config.plan(world_size))
    model = build_model(config, mesh, CLASSES, 1)
    return Trainer(config, mesh, model, make_preprocess(config, 1), STEPS)


def _local_batch(mesh, step):
    """This replica's part of four random images, the same ones on every mesh."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, CLASSES, (4,), generator=generator)
    indices, replicas = torch.arange(4) + 10 * step, mesh.plan.features.replicas
    parts = (part.tensor_split(replicas)[mesh.replica] for part in (images, labels, indices))
    return LocalBatch(Batch(*parts), indices.tensor_split(replicas), 4, 0, (step + 1) / STEPS)


@patch.dict(VARIANTS, TINY)
def train(settings, world_size, placement, last, target, source=None):
    """Train to step ``last``, from the checkpoint ``source`` if given, and save in ``target``.

    Returns the losses of the steps taken.
    """
    trainer = _trainer(settings, world_size, placement)
    if source:
        load_checkpoint(*newest_checkpoint(source), trainer)
    losses = []
    while trainer.steps < last:
        losses.append(trainer.train_step(_local_batch(trainer.mesh, trainer.steps)).result().loss)
    content = take_snapshot(trainer, Totals())
    if trainer.mesh.is_main:
        write_checkpoint(target / f"step-{last:08d}", content)
    return losses


def _read(folder):
    """The tensors of weights and optimiser, and the scalars, of the newest checkpoint."""
    path, state = newest_checkpoint(folder)
    files = ("model.safetensors", "optimizer.safetensors")
    tensors = {f"{file}: {name}": t for file in files for name, t in load_file(path / file).items()}
    return tensors, state["optimizer"], state["trainer"]["schedule"]["learning_rates"]


def _largest_error(found, expected):
    assert found.keys() == expected.keys()
    errors = [
        float((found[name] - t).abs().max() / t.abs().max().clamp_min(1e-12))
        for name, t in expected.items()
    ]
    return max(errors)


class Place(NamedTuple):
    """A placement of the net with so many towers."""

    ranks: int
    towers: int
    settings: dict[str, object]


HYBRID: dict[str, object] = {"placement": "hybrid"}
PLACES = {
    "local": Place(1, 2, {"placement": "local"}),
    "ddp": Place(2, 2, {"placement": "ddp"}),
    "split": Place(2, 2, {"placement": "split"}),
    "hybrid": Place(2, 2, {**HYBRID, "classifier_scheme": "c"}),
    "hybrid on 3": Place(3, 2, {**HYBRID, "classifier_scheme": "b"}),
    "hybrid in groups": Place(4, 2, {**HYBRID, "classifier_ranks": 2}),
    "split+hybrid": Place(4, 2, {"placement": "split+hybrid"}),
    "dense local": Place(1, 1, {"placement": "local"}),
    "dense split": Place(2, 1, {"placement": "split"}),
    "dense hybrid": Place(2, 1, HYBRID),
    "dense split+hybrid": Place(4, 1, {"placement": "split+hybrid", "shards": 2}),
}
PAIRS = [
    (name, other)
    for name, other in product(PLACES, repeat=2)
    if PLACES[name].towers == PLACES[other].towers
]


@pytest.fixture(scope="module")
def run_on(request):
    """Trains on a place: ``run_on(place, settings, last, target, source)``; the losses."""

    def run(place, settings, *arguments):
        ranks, towers, placement = PLACES[place]
        names = {1: "one_rank", 2: "two_ranks", 3: "three_ranks", 4: "four_ranks"}
        pool = request.getfixturevalue(names[ranks])
        everyone = pool.run(train, {**settings, "towers": towers}, ranks, placement, *arguments)
        assert everyone == [everyone[0]] * ranks
        return everyone[0]

    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory, run_on):
    """Gives, for a place and an optimiser: (the folder of a run that stopped, and of one that did
    not; the losses of the latter).
    """
    made = {}

    def run(place, settings):
        key = f"{place} {settings['optimizer']['name']}"
        if key not in made:
            folder = tmp_path_factory.mktemp(key.replace(" ", "-"))
            losses = run_on(place, settings, STEPS, folder / "undisturbed")
            run_on(place, settings, STOP, folder / "stopped")
            made[key] = folder, losses
        return made[key]

    yield run
    for folder, _ in made.values():
        shutil.rmtree(folder)


@pytest.mark.parametrize(("place", "other"), PAIRS)
def test_a_run_continues_on_any_placement_as_if_it_had_not_stopped(
    runs, run_on, tmp_path, place, other
):
    settings = _settings(SGD)
    folder, undisturbed = runs(place, settings)
    losses = run_on(other, settings, STEPS, tmp_path, folder / "stopped")
    found, expected = _read(tmp_path), _read(folder / "undisturbed")
    allowed = 0.0 if place == other else 1e-12
    assert losses == pytest.approx(undisturbed[STOP:], rel=allowed, abs=0)
    assert _largest_error(found[0], expected[0]) <= allowed
    assert found[1:] == expected[1:]
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize(
    ("other", "error"), [("split", 0.0), ("local", 1e-9), ("ddp", 1e-9), ("split+hybrid", 1e-9)]
)
def test_adamw_continues_on_any_placement_too(runs, run_on, tmp_path, other, error):
    """It divides by a small root, so that it makes more of the last digits."""
    settings = _settings(ADAMW)
    folder, _ = runs("split", settings)
    run_on(other, settings, STEPS, tmp_path, folder / "stopped")
    found, expected = _read(tmp_path), _read(folder / "undisturbed")
    assert _largest_error(found[0], expected[0]) <= error
    assert found[1:] == expected[1:]
    shutil.rmtree(tmp_path)


def test_a_run_that_updates_in_turns_continues_exactly(run_on, tmp_path):
    settings = _settings({**ADAMW, "classifier_updates": "turn"})
    whole = run_on("hybrid", settings, STEPS, tmp_path / "undisturbed")
    run_on("hybrid", settings, STOP, tmp_path / "stopped")
    losses = run_on("hybrid", settings, STEPS, tmp_path / "new", tmp_path / "stopped")
    found, expected = _read(tmp_path / "new"), _read(tmp_path / "undisturbed")
    assert losses == whole[STOP:]
    assert _largest_error(found[0], expected[0]) == 0
    assert found[1:] == expected[1:]
    assert (found[1]["step/conv1.weight"], found[1]["step/fc6.weight"]) == (STEPS, 2 * STEPS)
    with pytest.raises(AssertionError, match=r"ReportedError.*'b', 3, 1"):  # other turns
        run_on("hybrid on 3", settings, STEPS, tmp_path / "other", tmp_path / "stopped")
    shutil.rmtree(tmp_path)


def test_every_state_of_an_optimiser_is_kept_under_its_own_name(runs):
    folder, _ = runs("split", _settings(ADAMW))
    path = newest_checkpoint(folder / "stopped")[0]
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
    for key in ("name", "betas", "eps", "classifier_learning_rate", "classifier_updates"):
        del config["optimizer"][key]
    for key in ("overlap_communication", "shards", "classifier_ranks", "classifier_scheme"):
        del config[key]
    del state["optimizer"]
    schedule = state["trainer"]["schedule"]
    schedule["learning_rate"] = schedule.pop("learning_rates")[0]
    config["initial_values"] = config.pop("init")
    config["data"]["deviation"] = config["data"].pop("std")
    config["optimizer"]["accumulation"] = config["optimizer"].pop("gradient_accumulation")
    state["totals"].update(bytes_sent=7, parts={"data": 0.5})
    (path / "state.json").write_text(json.dumps(state))
    correct_manifest(path)


def test_a_checkpoint_from_before_other_optimisers_is_continued(runs, run_on, tmp_path):
    settings = _settings(SGD)
    folder, _ = runs("split", settings)
    shutil.copytree(folder / "stopped", tmp_path / "old")
    _age(tmp_path / "old")
    state = newest_checkpoint(tmp_path / "old")[1]
    check_same_run(Config.model_validate(settings), state["config"])
    assert Totals.read(state["totals"]) == Totals()
    run_on("split", settings, STEPS, tmp_path / "new", tmp_path / "old")
    found, expected = _read(tmp_path / "new"), _read(folder / "undisturbed")
    assert _largest_error(found[0], expected[0]) == 0
    assert found[2] == expected[2]
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def mesh():
    yield Mesh.start(Config().plan(1))
    dist.destroy_process_group()


@pytest.fixture
def make_trainer(mesh, monkeypatch):
    """Makes a trainer of a tiny net in this process."""
    monkeypatch.setitem(VARIANTS, "d2l", TINY["d2l"])

    def make(**settings):
        config = Config.model_validate({"variant": "d2l", "data": {"size": 64}, **settings})
        placed = replace(mesh, plan=config.plan(1))
        model = build_model(config, placed, CLASSES, 1)
        return Trainer(config, placed, model, make_preprocess(config, 1), total_steps=9)

    return make


@pytest.fixture
def trainer(make_trainer):
    """A trainer after one step."""
    trainer = make_trainer()
    trainer.train_step(_local_batch(trainer.mesh, 0)).result()
    return trainer


def _save(folder, trainer, totals):
    with CheckpointWriter(folder, trainer, None) as writer:
        writer.save(totals)
        return writer.finish()


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_saved_is_loaded(make_trainer, trainer, tmp_path):
    totals = Totals(images=2, test={"test/top1": 0.5})
    path = _save(tmp_path, trainer, totals)
    found, state = newest_checkpoint(tmp_path)
    fresh = make_trainer(seed=1)
    load_checkpoint(path, state, fresh)
    assert (found, fresh.steps) == (path, 1)
    assert Totals.read(state["totals"]) == totals
    for ours, theirs in zip(trainer.model.parameters(), fresh.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        momenta = [
            each.optimizer.state[parameter]["momentum_buffer"]
            for each, parameter in ((trainer, ours), (fresh, theirs))
        ]
        assert torch.equal(*momenta)
        assert momenta[1].stride() == theirs.stride()


def test_tensors_are_full(trainer, tmp_path):
    path = _save(tmp_path, trainer, Totals())
    tensors = load_file(path / "model.safetensors")
    assert tensors["conv2.weight"].shape == (8, 4, 5, 5)
    assert tensors["fc8.weight"].shape == (CLASSES, 24)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"net": {"hidden": 8}}, r"fc6\.weight.*\[24, 200\].*\[8, 200\]"),
        ({"towers": 1}, r"conv2\.weight"),
    ],
)
def test_another_net_s_checkpoint_is_refused_with_a_shape(
    make_trainer, trainer, tmp_path, settings, named
):
    _save(tmp_path, trainer, Totals())
    with pytest.raises(ReportedError, match=named):
        load_checkpoint(*newest_checkpoint(tmp_path), make_trainer(**settings))


@pytest.mark.parametrize(
    "changed", [{"trainer": {}}, {"optimizer": {"step/fc9.weight": 1.0}}, {"optimizer": 3}]
)
def test_state_that_is_not_a_trainer_s_is_refused(make_trainer, trainer, tmp_path, changed):
    path = _save(tmp_path, trainer, Totals())
    state = newest_checkpoint(tmp_path)[1]
    with pytest.raises(ReportedError, match=str(path)):
        load_checkpoint(path, {**state, **changed}, make_trainer())


def test_the_best_is_kept(trainer, tmp_path):
    totals = Totals()
    with CheckpointWriter(tmp_path, trainer, None) as writer:
        for step, top1 in ((1, 0.3), (2, 0.8), (3, 0.5), (4, 0.6), (5, 0.7)):
            trainer.steps = step
            totals.tested(step, {"test/top1": top1})
            assert writer.is_due(totals) == (step <= 2)
            writer.save(totals)
        assert writer.finish() == tmp_path / "step-00000005"
    assert _names(tmp_path) == ["step-00000002", "step-00000004", "step-00000005"]


def test_none_is_written_if_none_is_kept(make_trainer, tmp_path):
    assert _save(tmp_path / "none", make_trainer(keep_checkpoints=0), Totals()) is None
    assert not (tmp_path / "none").exists()


def test_training_goes_on_while_a_checkpoint_is_written(make_trainer, trainer, tmp_path):
    expected = [parameter.clone() for parameter in trainer.model.parameters()]
    with CheckpointWriter(tmp_path, trainer, None) as writer, torch.no_grad():
        writer.save(Totals())
        for parameter in trainer.model.parameters():
            parameter.add_(1)
        writer.finish()
    fresh = make_trainer(seed=1)
    load_checkpoint(*newest_checkpoint(tmp_path), fresh)
    assert all(map(torch.equal, fresh.model.parameters(), expected))


def test_a_refused_checkpoint_may_be_gone_on_without(make_trainer, trainer, tmp_path, caplog):
    first = _save(tmp_path, trainer, Totals())
    going_on = make_trainer(write_errors="continue")
    with CheckpointWriter(tmp_path, going_on, first) as writer:
        with files_of_at_most(1000):
            going_on.steps = 2
            writer.save(Totals())
            going_on.steps = 3
            writer.save(Totals())
            assert caplog.text.count("step-00000002") == 1
            with pytest.raises(ReportedError, match="step-00000003"):
                writer.finish()
        assert _names(tmp_path) == ["step-00000001"]
        going_on.steps = 4
        writer.save(Totals())
        assert writer.finish() == tmp_path / "step-00000004"


def test_weights_that_are_not_finite_are_not_saved(trainer, tmp_path):
    with torch.no_grad():
        trainer.model.fc7.weight[3, 3] = float("inf")
    with pytest.raises(ReportedError, match=r"fc7\.weight"):
        _save(tmp_path, trainer, Totals())
    assert list(tmp_path.iterdir()) == []


def test_an_optimiser_without_state_is_saved_and_loaded(make_trainer, tmp_path):
    plain = {"optimizer": {"momentum": 0.0}}
    _save(tmp_path, make_trainer(**plain), Totals())
    load_checkpoint(*newest_checkpoint(tmp_path), make_trainer(**plain))
