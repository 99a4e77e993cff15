"""The length of each training and trial of a study, and the trainings still to be done."""

import json
from pathlib import Path

import pytest

from common.errors import ReportedError
from comparison.learning import Learning, Study
from comparison.measure import TrainingError
from training.settings import load_config

FORMS = {
    "usual": [],
    "large batch": ["batch_size=64"],
    "longer": ["epochs=2.5"],
    "few images": ["data.train_images=10"],
}


def _study(tmp_path, **changes):
    source = tmp_path / "mine.yaml"
    source.write_text("batch_size: 16\nepochs: 2")
    lengths = {"known": 100, "images": None, "trial_images": None, "held_out": 10}
    config = {"config": load_config(source, []), "source": source, "overrides": []}
    settings = {"forms": FORMS, "processes": 2, "seeds": 2, "evaluations": 1}
    return Study(**{**config, **settings, **lengths, **changes})


@pytest.mark.parametrize(
    ("images", "steps"), [(None, [14, 4, 18, 2]), (160, [10, 3, 10, 10]), (1, [1, 1, 1, 1])]
)
def test_a_form_is_trained_for_its_own_epochs_or_on_so_many_images(tmp_path, images, steps):
    study = _study(tmp_path, images=images)
    assert [study.steps(form) for form in FORMS] == steps


@pytest.mark.parametrize(("images", "steps"), [(None, [14, 4, 18, 2]), (40, [3, 1, 3, 3])])
def test_a_trial_is_as_long_as_a_training_or_on_so_many_images(tmp_path, images, steps):
    study = _study(tmp_path, trial_images=images)
    assert [study.trial_steps(form) for form in FORMS] == steps


class _Trained(Learning):
    """A study whose trainings are noted instead of run."""

    def _train(self, form, rate, seed):
        return {"test_top1": rate}


def test_a_study_goes_on_wherever_it_is_tracked_and_its_runs_lie(tmp_path):
    for setting in ("tracking.mode=disabled", "tracking.mode=offline", "runs=elsewhere"):
        config = load_config(_study(tmp_path).source, [setting])
        Learning(_study(tmp_path, config=config), tmp_path)
    config = load_config(_study(tmp_path).source, ["batch_size=8"])
    with pytest.raises(ReportedError, match=r"batch_size = 16, .* 8:"):
        Learning(_study(tmp_path, config=config), tmp_path)


def test_a_setting_newer_than_a_study_had_its_default_there(tmp_path):
    Learning(_study(tmp_path), tmp_path)
    plan = json.loads((tmp_path / "plan.json").read_text())
    del plan["config"]["compile"], plan["config"]["net"]["meet"]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    config = load_config(_study(tmp_path).source, ["net.meet=[fc6]"])
    with pytest.raises(ReportedError, match=r"net\.meet = None"):
        Learning(_study(tmp_path, config=config), tmp_path)
    Learning(_study(tmp_path), tmp_path)
    assert json.loads((tmp_path / "plan.json").read_text())["config"]["compile"] is False


def _done(outcomes):
    return [(each["form"], each["seed"]) for each in outcomes]


def test_a_study_goes_on_with_more_forms_and_more_seeds(tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()

    def go_on(seeds, forms=()):
        return _Trained(_study(tmp_path, seeds=seeds, trial_images=0), folder).run(forms)

    some = go_on(1, ["longer", "usual"])
    assert _done(some) == [("usual", 0), ("longer", 0)]
    assert _done(go_on(1)) == [(form, 0) for form in FORMS]
    assert _done(go_on(2, ["usual"])) == [("usual", 0), ("usual", 1)] + [
        (form, 0) for form in list(FORMS)[1:]
    ]
    assert _done(go_on(2)) == [(form, seed) for form in FORMS for seed in (0, 1)]
    assert {path.name for path in Path(folder).iterdir()} == {"plan.json", "learning.json"}


def test_a_study_of_some_forms_goes_on_with_others_and_returns_those_it_was_asked_for(tmp_path):
    def go_on(*names, **changes):
        forms = {name: FORMS[name] for name in names}
        study = _study(tmp_path, seeds=1, trial_images=0, **{"forms": forms, **changes})
        return _Trained(study, tmp_path).run()

    assert _done(go_on("usual", "longer")) == [("usual", 0), ("longer", 0)]
    assert _done(go_on("few images", "usual")) == [("few images", 0), ("usual", 0)]
    kept = json.loads((tmp_path / "learning.json").read_text())["outcomes"]
    assert _done(kept) == [("usual", 0), ("longer", 0), ("few images", 0)]
    with pytest.raises(ReportedError, match=r"form longer = .*epochs=2\.5.* .*epochs=3"):
        go_on(forms={"longer": ["epochs=3"]})
    assert _done(go_on("longer")) == [("longer", 0)]


def test_forms_are_compared_in_one_precision_and_another_machine_can_add_seeds(tmp_path):
    def go_on(precision, seeds, *names):
        config = load_config(_study(tmp_path).source, [f"precision={precision}"])
        forms = {name: FORMS[name] for name in names}
        study = _study(tmp_path, config=config, forms=forms, seeds=seeds, trial_images=0)
        return _Trained(study, tmp_path).run()

    assert [each["precision"] for each in go_on("bf16", 1, "usual", "longer")] == ["bf16"] * 2
    with pytest.raises(ReportedError, match=r"seed 0 .* few images in fp32 .* precision=bf16"):
        go_on("fp32", 1, "few images")
    more = go_on("fp32", 2, "usual", "longer")
    assert [each["precision"] for each in more] == ["bf16", "fp32"] * 2
    assert more[:2] == go_on("bf16", 2, "usual")


class _Tried(_Trained):
    """A study whose best learning rate is 0.01 in trials of one step, else 0.02."""

    def _outcome(self, form, rate, seed, steps, settings):
        return {"test_top1": -abs(rate - (0.01 if steps == 1 else 0.02))}


def test_longer_trials_choose_anew_and_what_was_done_is_kept(tmp_path):
    def go_on(trial_images):
        lengths = {"seeds": 1, "images": 160, "trial_images": trial_images}
        forms = {"usual": ["optimizer.learning_rate=0.01"]}
        return _Tried(_study(tmp_path, forms=forms, **lengths), tmp_path).run()

    def rates(outcomes):
        return [each["learning_rate"] for each in outcomes]

    def kept(name):
        return rates(json.loads((tmp_path / "learning.json").read_text())[name])

    assert rates(go_on(16)) == [0.01]
    assert rates(go_on(160)) == [0.02]
    assert kept("outcomes") == [0.01, 0.02]
    assert kept("trials") == [0.01, 0.005, 0.02, 0.01, 0.005, 0.02, 0.04]
    assert rates(go_on(16)) == [0.01]
    assert len(kept("outcomes")) == 2
    assert len(kept("trials")) == 7


class _Unstable(_Tried):
    """The same study, whose trainings with seed 1 fail at the best rate."""

    def _train(self, form, rate, seed):
        if (rate, seed) == (0.02, 1):
            raise TrainingError("the loss became nan")
        return {"test_top1": rate}


def test_a_rate_at_which_any_seed_fails_is_given_up_for_all_seeds(tmp_path):
    forms = {"usual": ["optimizer.learning_rate=0.01"]}

    def go_on(**changes):
        study = _study(tmp_path, forms=forms, images=160, **changes)
        return [(one["seed"], one["learning_rate"]) for one in _Unstable(study, tmp_path).run()]

    assert go_on(seeds=1) == [(0, 0.02)]
    assert go_on(seeds=2) == [(0, 0.01), (1, 0.01)]
    kept = json.loads((tmp_path / "learning.json").read_text())
    assert len(kept["outcomes"]) == 3
    last = kept["trials"][-1]
    assert (last["learning_rate"], last["seed"], last["test_top1"]) == (0.02, 1, None)


def test_a_training_that_fails_at_the_only_rate_is_an_error(tmp_path):
    forms = {"usual": ["optimizer.learning_rate=0.02"]}
    with pytest.raises(ReportedError, match="usual, seed 1"):
        _Unstable(_study(tmp_path, forms=forms, trial_images=0), tmp_path).run()
