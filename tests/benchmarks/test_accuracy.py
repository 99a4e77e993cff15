"""The recipes of the default job, and their table."""

import pytest

from benchmarks.accuracy import CONFIG, RECIPES, rows_of
from training.settings import load_config


def test_every_recipe_is_a_configuration_and_another_one():
    configs = [load_config(CONFIG, overrides) for overrides in RECIPES.values()]
    assert all(config not in configs[:number] for number, config in enumerate(configs))


def _outcome(recipe, seed, accuracy, seconds=10.0):
    return {"form": recipe, "seed": seed, "test_top1": accuracy, "seconds": seconds}


def test_a_recipe_is_compared_with_the_default_over_the_seeds_that_both_have():
    default, shorter, single = rows_of(
        [
            *(_outcome("default", seed, 0.9 + seed / 100) for seed in range(4)),
            *(_outcome("shorter", 0, 0.89, 6.0), _outcome("shorter", 2, 0.93, 8.0)),
            _outcome("single", 1, 0.5),
        ]
    )
    assert (default["seeds"], default["lowest"], default["points"]) == (4, 90.0, None)
    assert default["accuracy, %"] == pytest.approx(91.5)
    assert (shorter["seeds"], shorter["seconds"]) == (2, 7.0)
    assert shorter["points"].startswith("+0.00 (-")
    assert (single["±"], single["points"]) == (None, None)
