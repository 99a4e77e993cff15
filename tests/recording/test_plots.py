"""The picture of a run's curves."""

import json

import numpy as np
import pytest
from PIL import Image

from common.colors import COLORS
from common.errors import ReportedError
from recording.plots import _smooth, draw_curves
from tests.recording.samples import evaluation_metrics, step_metrics

TRAINING, SPEED, TEST = COLORS[0], COLORS[2], COLORS[5]


def _write(path, steps, per_epoch):
    lines = []
    for step in range(1, steps + 1):
        place = {"step": step, "epoch": step / per_epoch}
        speed = {"step/images_per_second": 300.0 + step % 7}
        lines.append({**place, **step_metrics(2.0 / step**0.5), **speed})
        if step % per_epoch == 0:
            lines.append({**place, **evaluation_metrics()})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def draw(tmp_path):
    """The pixels of the picture of so many steps."""

    def draw(steps, per_epoch=450):
        metrics, picture = tmp_path / "metrics.jsonl", tmp_path / "curves.png"
        _write(metrics, steps, per_epoch)
        draw_curves(metrics, picture, "fashion-2")
        with Image.open(picture) as image:
            assert image.format == "PNG"
            return np.asarray(image.convert("RGB"))

    return draw


def _count(pixels, color):
    """Count the pixels of each quarter that have the color; row by row."""
    rgb = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
    hit = (pixels == rgb).all(-1)
    return [
        np.count_nonzero(quarter)
        for half in np.array_split(hit, 2)
        for quarter in np.array_split(half, 2, 1)
    ]


@pytest.mark.parametrize("steps", [0, 1, 2, 900])
def test_the_picture_is_drawn_of_any_number_of_steps(draw, steps):
    height, width, _ = draw(steps).shape
    assert 600 <= height <= 1200
    assert 800 <= width <= 1600


def test_every_quarter_shows_its_curve(draw):
    nothing, curves = draw(0), draw(900)
    for quarter, color in enumerate((TRAINING, TRAINING, SPEED)):
        assert _count(curves, color)[quarter] > 100
        assert _count(nothing, color)[quarter] == 0
    assert min(_count(curves, color)[3] for color in COLORS) > 1000, "more than the legend's"


def test_a_single_step_is_a_dot(draw):
    assert _count(draw(1), SPEED)[2] > 0


def test_evaluations_are_drawn_beside_their_entry_in_the_legend(draw):
    for quarter in (0, 1):
        assert _count(draw(900), TEST)[quarter] > _count(draw(400), TEST)[quarter] > 0


def test_smoothing_keeps_a_constant_up_to_both_ends():
    assert _smooth([3.0] * 500) == pytest.approx([3.0] * 500)


@pytest.mark.parametrize("count", [1, 2, 59, 60, 61, 500])
def test_smoothing_keeps_the_number_of_points(count):
    assert len(_smooth(list(range(count)))) == count


def test_smoothing_takes_the_mean_of_what_is_near():
    spike = [0.0] * 600
    spike[300] = 21.0
    smooth = _smooth(spike)
    assert max(smooth) == pytest.approx(1.0)
    assert np.flatnonzero(smooth > 0.5).tolist() == list(range(290, 311))


def test_a_picture_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportedError, match=r"curves\.png"):
        draw_curves(tmp_path / "metrics.jsonl", tmp_path / "file" / "curves.png", "run")
