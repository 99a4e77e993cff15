"""The table of forms, and what is said of a race between them."""

import pytest
from PIL import Image

from common.colors import COLORS
from common.errors import ReportedError
from comparison.forms import FORMS
from comparison.learning_report import as_text, draw_errors, reached
from training.settings import load_config

ALL = [pytest.param(f, id=f"{name}: {form}") for name, s in FORMS.items() for form, f in s.items()]


@pytest.mark.parametrize("overrides", ALL)
def test_every_form_is_a_configuration(tmp_path, overrides):
    path = tmp_path / "mine.yaml"
    path.write_text("optimizer: {nesterov: true}")
    load_config(path, overrides)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_a_set_is_another_net_with_a_color_of_its_own(tmp_path, name):
    path = tmp_path / "mine.yaml"
    path.write_text("")
    configs = [load_config(path, overrides) for overrides in FORMS[name].values()]
    nets = [(config.form, config.towers) for config in configs]
    assert all(net not in nets[:number] for number, net in enumerate(nets))
    assert len(nets) <= len(COLORS)


def _outcome(form, errors):
    points = [
        {"images": 100 * n, "seconds": 2.0 * n, "epoch": n / 10} for n in range(1, len(errors) + 1)
    ]
    end = {"form": form, "parameters": 10**6, **points[-1], "test_top1": 0.5}
    training = [{**point, "train_error": e} for point, e in zip(points, errors, strict=True)]
    return {**end, "curve": [{**points[-1], "test_top1": 0.5}], "training": training}


OUTCOMES = [
    _outcome("ReLU", [0.9, 0.2, 0.3, 0.1, 0.1, 0.1]),
    _outcome("tanh", [0.9, 0.8, 0.7, 0.5, 0.4, 0.19]),
    _outcome("none", [0.9] * 6),
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


def test_the_errors_are_drawn(tmp_path):
    draw_errors(OUTCOMES, tmp_path / "error.png", "made up")
    assert Image.open(tmp_path / "error.png").size == (800, 500)
    with pytest.raises(ReportedError, match="nowhere"):
        draw_errors(OUTCOMES, tmp_path / "nowhere" / "error.png", "made up")
