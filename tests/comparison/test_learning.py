"""The forms of the net, trainings of them that were kept, their table and their pictures."""

import numpy as np
import pytest
from PIL import Image, ImageColor

from common.colors import COLORS
from common.errors import ReportedError
from comparison.forms import FORMS, forms_of
from comparison.learning_charts import draw_differences, draw_errors, draw_learning, draw_rates
from comparison.learning_report import as_text, write_learning
from comparison.outcomes import by_set, points_to_first, reached, rows_of
from training.settings import load_config

ALL = [pytest.param(f, id=f"{name}: {form}") for name, s in FORMS.items() for form, f in s.items()]


@pytest.mark.parametrize("overrides", ALL)
def test_every_form_is_a_configuration(tmp_path, overrides):
    path = tmp_path / "mine.yaml"
    path.write_text("optimizer: {nesterov: true}")
    load_config(path, overrides)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_a_set_is_another_net_or_other_data_with_a_color_of_its_own(tmp_path, name):
    path = tmp_path / "mine.yaml"
    path.write_text("")
    configs = [load_config(path, overrides) for overrides in FORMS[name].values()]
    nets = [(config.form, config.towers, config.data) for config in configs]
    assert all(net not in nets[:number] for number, net in enumerate(nets))
    assert len(nets) <= len(COLORS)


def test_a_form_that_sets_share_is_trained_once_and_stands_in_the_results_of_each():
    forms = forms_of(FORMS)
    assert all(forms[form] == own for sets in FORMS.values() for form, own in sets.items())
    outcomes = [{"form": form} for form in forms]
    sets = by_set(outcomes, FORMS)
    assert {name: [each["form"] for each in own] for name, own in sets.items()} == {
        name: list(own) for name, own in FORMS.items()
    }
    assert sum(map(len, sets.values())) > len(outcomes)


def _outcome(form, errors, seed=0, accuracy=0.5):
    points = [
        {"images": 100 * n, "seconds": 2.0 * n, "epoch": n / 10} for n in range(1, len(errors) + 1)
    ]
    what = {"form": form, "seed": seed, "learning_rate": 0.01, "parameters": 10**6}
    end = {**what, **points[-1], "test_top1": accuracy, "train_error": errors[-1]}
    training = [{**point, "train_error": e} for point, e in zip(points, errors, strict=True)]
    return {**end, "curve": [{**points[-1], "test_top1": accuracy}], "training": training}


OUTCOMES = [
    _outcome("ReLU", [0.9, 0.2, 0.3, 0.1, 0.1, 0.1]),
    _outcome("tanh", [0.9, 0.8, 0.7, 0.5, 0.4, 0.19]),
    _outcome("none", [0.9] * 6),
]
SEEDS = [
    _outcome("two", [0.9, 0.2], seed=0, accuracy=0.80),
    _outcome("two", [0.2, 0.2], seed=1, accuracy=0.90),
    _outcome("one", [0.2, 0.2], seed=0, accuracy=0.82),
    _outcome("one", [0.9, 0.9], seed=1, accuracy=0.90),
]


def test_the_threshold_is_reached_at_the_first_error_that_is_low_enough():
    assert [p and p["images"] for p in map(reached, OUTCOMES)] == [200, 600, None]


def test_the_race_is_told_as_multiples_of_the_first_form():
    assert as_text(OUTCOMES).splitlines()[-4:] == [
        "To a training error of 20%:",
        "  ReLU: 200 images, 4 s",
        "  tanh: 600 images, 12 s (× 3.0 and × 3.0 of ReLU)",
        "  none: not reached",
    ]
    assert as_text(OUTCOMES[::-1]).endswith("  ReLU: 200 images, 4 s")


def test_a_row_is_the_mean_over_seeds_with_the_paired_difference_to_the_first_form():
    two, one = rows_of(SEEDS)
    assert (two["form"], two["seeds"], two["difference"], two["p"]) == ("two", 2, None, None)
    assert (two["test_top1"], one["test_top1"]) == pytest.approx((0.85, 0.86))
    assert (two["test_top1_std"], one["test_top1_std"]) == pytest.approx((0.0707107, 0.0565685))
    assert one["difference"] == pytest.approx(0.01)
    assert one["difference_low"] < 0 < one["difference_high"]
    assert one["p"] == pytest.approx(0.5)  # t = 1 at one degree of freedom


def test_the_table_says_how_sure_it_is_in_100_columns():
    text = as_text(SEEDS)
    assert "0.8600 ± 0.0566" in text
    assert "+1.00 (" in text
    assert max(map(len, text.splitlines())) <= 100
    assert "±" not in as_text(OUTCOMES)


def test_a_form_reaches_the_threshold_when_all_of_its_seeds_do():
    assert as_text(SEEDS).splitlines()[-2:] == ["  two: 150 images, 3 s", "  one: not reached"]


@pytest.mark.parametrize("outcomes", [OUTCOMES, SEEDS])
def test_the_pictures_are_drawn(tmp_path, outcomes):
    draw_errors(outcomes, tmp_path / "error.png", "made up")
    draw_learning(outcomes, tmp_path / "learning.png", "made up")
    assert Image.open(tmp_path / "error.png").size == (800, 500)
    assert Image.open(tmp_path / "learning.png").size == (1000, 450)


def _trial(form, rate, accuracy, steps=8):
    return {"form": form, "learning_rate": rate, "steps": steps, "test_top1": accuracy}


TRIALS = [_trial("two", 0.01, 0.8), _trial("two", 0.02, 0.9), _trial("two", 0.04, None)]


def test_each_set_has_a_table_and_pictures_also_of_its_trials_if_there_are_any(tmp_path):
    sets, trials = {"towers": SEEDS, "nets": OUTCOMES}, {"towers": TRIALS, "nets": []}
    charts = write_learning(tmp_path, "made up", sets, trials)
    assert [chart.name for chart in charts] == [
        *("towers-accuracy.png", "towers-error.png", "towers-rates.png"),
        *("nets-accuracy.png", "nets-error.png", "differences.png"),
    ]
    assert all(chart.exists() for chart in charts)
    assert "+1.00 (" in (tmp_path / "towers.md").read_text()
    assert "tanh" in (tmp_path / "nets.md").read_text()


def test_forms_are_compared_with_the_first_seed_by_seed():
    assert points_to_first(SEEDS[::-1]) == {"two": pytest.approx([0.0, -2.0])}
    assert list(points_to_first(OUTCOMES)) == ["tanh", "none"]


@pytest.mark.parametrize(
    ("sets", "rows"), [({"towers": SEEDS}, 1), ({"towers": SEEDS, "nets": OUTCOMES}, 3)]
)
def test_the_picture_of_differences_has_a_row_for_each_form_but_the_first(tmp_path, sets, rows):
    draw_differences(sets, tmp_path / "differences.png", "made up")
    assert Image.open(tmp_path / "differences.png").size == (800, int(130 + 35 * rows))


def _colored_pixels(path, color):
    wanted = np.array(ImageColor.getrgb(color))
    return (np.abs(np.asarray(Image.open(path).convert("RGB")) - wanted).max(axis=2) < 30).sum()


def test_the_picture_of_rates_shows_the_trials_of_each_form_and_length(tmp_path):
    def pixels(*trials):
        draw_rates([*TRIALS, *trials], tmp_path / "rates.png", "made up")
        return _colored_pixels(tmp_path / "rates.png", COLORS[1])

    line = [_trial("one", 0.01, 0.85), _trial("one", 0.02, 0.89)]
    shorter = [_trial("one", 0.01, 0.84, 2), _trial("one", 0.02, 0.82, 2)]
    nothing, failed = pixels(), pixels(_trial("one", 0.08, None))
    assert nothing == 0 < failed < 200  # a line in the legend, and a cross
    assert 0 < pixels(_trial("one", 0.08, None)) < pixels(*line) < pixels(*line, *shorter)
    assert Image.open(tmp_path / "rates.png").size == (800, 500)


def test_a_picture_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ReportedError, match="nowhere"):
        draw_errors(OUTCOMES, tmp_path / "nowhere" / "error.png", "made up")
