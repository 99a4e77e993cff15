"""The study of the batch: its trainings are valid; its table and picture hold what was found."""

from argparse import Namespace
from itertools import product

import pytest
from PIL import Image

from benchmarks import batches
from benchmarks.batches import BATCHES, CONFIG, OVERRIDES, SEARCHED, STATED, draw, forms, rows_of
from comparison.learning import Learning
from comparison.measure import TrainingError
from training.settings import load_config

ALL = {**STATED, **SEARCHED}


def _configs(methods):
    return {
        form: load_config(CONFIG, [*OVERRIDES, *overrides])
        for form, overrides in forms(methods, BATCHES).items()
    }


def test_every_method_is_a_configuration_at_every_batch():
    configs = _configs(ALL)
    assert len(configs) == len(ALL) * len(BATCHES)
    for form, config in configs.items():
        name, batch = form.split()
        assert config.batch_size == int(batch)
        assert config.plan(2).world_size == 2
        assert (config.optimizer.name == "lars") == (name == "lars")


@pytest.mark.parametrize("name", STATED)
def test_the_stated_rate_is_in_proportion_to_the_batch(name):
    configs = _configs({name: ALL[name]}).values()
    each = {config.optimizer.learning_rate / config.batch_size for config in configs}
    assert max(each) == pytest.approx(min(each))


def test_the_variable_batch_halves_the_classifiers_batch_and_its_rate():
    for config in _configs({"variable": ALL["variable"]}).values():
        optimizer = config.optimizer
        assert (config.placement, optimizer.classifier_updates) == ("hybrid", "turn")
        assert optimizer.classifier_learning_rate == pytest.approx(optimizer.learning_rate / 2)


def _outcome(form, seed, accuracy):
    what = {"form": form, "seed": seed, "learning_rate": 0.1}
    return {**what, "test_top1": accuracy, "images": 1000, "seconds": 2.0}


FOUND = [
    *(_outcome("lars 512", 0, 0.8), _outcome("linear 512", 0, 0.7), _outcome("linear 512", 1, 0.9)),
    *(_outcome("linear 256", 0, 0.6), _outcome("linear 256", 1, 0.6), _outcome("lars 512", 1, 0.8)),
]


def test_a_row_is_the_mean_over_the_seeds_of_a_method_at_a_batch():
    rows = rows_of(FOUND, [256, 512])
    assert [(row["method"], row["batch"]) for row in rows] == list(product(ALL, [256, 512]))
    found = [row for row in rows if row["seeds"]]
    assert [(row["method"], row["batch"]) for row in found] == [
        *(("linear", 256), ("linear", 512), ("lars", 512))
    ]
    assert [row["accuracy, %"] for row in found] == pytest.approx([60, 80, 80])
    assert [row["±"] for row in found] == pytest.approx([0, 14.142135, 0])
    assert {(row["seeds"], row["images/s"]) for row in found} == {(2, 500.0)}
    assert {row["accuracy, %"] for row in rows if not row["seeds"]} == {None}
    [single] = [row for row in rows_of(FOUND[:1], [512]) if row["seeds"]]
    assert single["±"] is None


class _Unstable(Learning):
    """A study whose trainings are noted instead of run; a high rate fails."""

    def _outcome(self, form, rate, seed, steps, settings):
        if rate > 0.1:
            raise TrainingError("the loss became nan")
        return {"test_top1": rate, "images": steps, "seconds": 1.0}


@pytest.mark.parametrize(("methods", "trial_images"), [(STATED, 0), (SEARCHED, None)])
def test_a_method_that_fails_at_a_batch_does_not_end_the_others(
    tmp_path, monkeypatch, methods, trial_images
):
    monkeypatch.setattr(batches, "Learning", _Unstable)
    monkeypatch.setattr(batches, "BASE_LARS", 100.0)
    arguments = Namespace(batches=[256, 4096], images=4096, seeds=2)
    found = batches.train_all(methods, trial_images, arguments, tmp_path / "study")
    trained = [(each["form"], each["seed"]) for each in found]
    whole = {"linear 256", "variable 256", "searched 256", "searched 4096"}
    assert trained == [
        (form, seed) for form in forms(methods, [256, 4096]) if form in whole for seed in (0, 1)
    ]


@pytest.mark.parametrize("found", [FOUND, FOUND[:1]])
def test_the_picture_is_drawn(tmp_path, found):
    path = tmp_path / "batches.png"
    draw(rows_of(found, [256, 512]), path)
    with Image.open(path) as picture:
        assert picture.width > 400
        assert len(picture.convert("RGB").getcolors(10**6)) > 10
