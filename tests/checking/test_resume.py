"""The proof that a run resumes bit for bit, which fails if something is not restored."""

from contextlib import nullcontext
from unittest.mock import patch

from checking.resume import check_resume
from checking.steps import Trainings, small_config
from recording import snapshots
from tests.ranks import mesh_of


def resumes(folder, without_momentum):
    """Whether the resumed run is equal."""
    trainings = Trainings(mesh_of(small_config(2, "fp32", placement="ddp").plan(2)))
    forgets = patch.object(snapshots, "_load_optimizer", lambda *_: None)
    with forgets if without_momentum else nullcontext():
        [outcome] = check_resume(trainings, folder)
    return outcome.holds


def test_a_resumed_run_is_equal_and_leaves_nothing(two_ranks, tmp_path):
    assert two_ranks.run(resumes, tmp_path, False) == [True, True]
    assert not list(tmp_path.iterdir())


def test_momentum_that_is_not_restored_is_found(two_ranks, tmp_path):
    assert two_ranks.run(resumes, tmp_path, True) == [False, False]
    assert not list(tmp_path.iterdir())
