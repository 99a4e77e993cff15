"""Every plan that is listed can be run, and the best is the fastest that fits."""

import pytest

from model.variants import VARIANTS
from planning.job import Job
from planning.search import candidates, divisors, plans, rank
from tests.planning.machines import PAPER, make_machine
from training.config import Config


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6, 8, 64])
@pytest.mark.parametrize(("variant", "towers"), [("paper", 2), ("paper", 1), ("d2l", 2)])
def test_every_candidate_is_a_configuration_of_its_plan(variant, towers, ranks):
    found = candidates(ranks, towers, VARIANTS[variant], compress=True)
    for candidate in found:
        settings = dict(each.split("=") for each in candidate.overrides)
        config = Config.model_validate({"variant": variant, "towers": towers, **settings})
        assert config.plan(ranks) == candidate.plan
        assert config.classifier_scheme == candidate.scheme
        assert config.compress_gradients is candidate.compressed
    assert len({candidate.name for candidate in found}) == len(found)


def test_all_grids_of_four_ranks_are_found():
    found = {
        (plan.features.shards, plan.classifier.shards) for plan in plans(4, 2, VARIANTS["paper"])
    }
    assert found == {(1, 1), (1, 2), (1, 4), (2, 2), (2, 4), (4, 4)}


def test_layers_that_do_not_divide_are_not_planned():
    assert {plan.placement for plan in plans(3, 1, VARIANTS["paper"])} == {"ddp"}


def test_the_fastest_that_fits_comes_first():
    job, everything = Job(PAPER, 64), candidates(4, 2, VARIANTS["paper"], compress=False)
    ranked = rank(everything, job, make_machine())
    times = [each.prediction.seconds for each in ranked]
    assert times == sorted(times)
    least = min(each.prediction.memory for each in ranked)
    tight = rank(everything, job, make_machine(memory=least))
    assert [each.fits for each in tight] == sorted((each.fits for each in tight), reverse=True)
    assert {each.prediction.memory for each in tight if each.fits} == {least}


def test_divisors():
    assert divisors(12) == [1, 2, 3, 4, 6, 12]
