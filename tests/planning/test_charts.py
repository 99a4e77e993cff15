"""The charts of a plan show the predictions."""

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from PIL import Image

from common.errors import ReportedError
from planning.charts import PARTS, UNFIT, draw_charts, draw_speeds, draw_steps, speeds
from planning.job import Job
from planning.sweep import Space
from planning.tables import distinct
from tests.planning.machines import PAPER, make_links, make_machine

MACHINE = make_machine(4, within=make_links(1e10, 2e-5), between=make_links(1e9, 5e-5))
SPACE = Space(Job(PAPER, 256), MACHINE, 4)


def test_bars_add_up_to_the_steps():
    ranked = SPACE.ranked()
    [axes] = draw_steps({256: ranked}, 4).axes
    shown = distinct(ranked)
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [each.candidate.name for each in shown]
    assert len(axes.patches) == len(shown) * len(PARTS)
    for place, each in enumerate(shown):
        right = axes.containers[-1][place].get_x() + axes.containers[-1][place].get_width()
        assert right == pytest.approx(1e3 * each.prediction.seconds)


def test_bars_of_what_does_not_fit_are_grey():
    least = min(each.prediction.memory for each in SPACE.ranked())
    tight = SPACE._replace(machine=MACHINE.model_copy(update={"memory": least}))
    [axes] = draw_steps({256: tight.ranked()}, 4).axes
    colors = [bar.get_facecolor() for bar in axes.patches[: len(axes.get_yticks())]]
    assert len(set(colors)) == 2
    rows = distinct(tight.ranked())
    assert [color == colors[-1] for color in colors] == [not each.fits for each in rows]
    assert colors[-1] == to_rgba(UNFIT)


def test_speeds_are_the_fastest_of_each_kind():
    found = {(each.kind, each.ranks): each for each in speeds(SPACE, lambda ranks: 256)}
    for ranks in (2, 4, 8, 256):
        here = SPACE.with_ranks(ranks)
        fastest = max(each.images_per_second for key, each in found.items() if key[1] == ranks)
        assert fastest == 256 / here.best.prediction.seconds
    assert max(ranks for _, ranks in found) == 256


def test_a_kind_keeps_its_marker_and_color_in_each_panel():
    fixed = speeds(SPACE, lambda ranks: 256)
    figure = draw_speeds({"fixed": fixed, "grows": speeds(SPACE, lambda ranks: 64 * ranks)})
    looks = [
        [(line.get_label(), line.get_color(), line.get_marker()) for line in axes.lines]
        for axes in figure.axes
    ]
    assert looks[0] == looks[1]
    points = {(p.kind, p.ranks, p.images_per_second) for p in fixed}
    drawn = {
        (line.get_label(), x, y)
        for line in figure.axes[0].lines
        for x, y in np.asarray(line.get_xydata())
    }
    assert drawn == points


def test_charts_are_pictures(tmp_path):
    paths = draw_charts(SPACE, [32, 256], tmp_path / "charts")
    assert [path.name for path in paths] == ["step_time.png", "scaling.png"]
    for path in paths:
        assert Image.open(path).size[0] == 1000


def test_one_rank_without_links_has_a_chart_of_its_step(tmp_path):
    machine = make_machine(1).model_copy(update={"within": {}})
    [path] = draw_charts(Space(Job(PAPER, 32), machine, 1), [32], tmp_path)
    assert path.name == "step_time.png"


def test_charts_name_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ReportedError, match="file"):
        draw_charts(SPACE, [256], tmp_path / "file")
