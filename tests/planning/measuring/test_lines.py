"""Lines through measured times."""

import pytest

from planning.machine import Line
from planning.measuring.lines import fit


def test_points_of_a_line_give_it():
    line = fit([(8, 1 + 0.5 * 8), (32, 1 + 0.5 * 32), (64, 1 + 0.5 * 64)])
    assert (line.fixed, line.each) == (pytest.approx(1), pytest.approx(0.5))


@pytest.mark.parametrize(
    ("points", "line"),
    [
        ([(8, 4.0)], Line(fixed=0, each=0.5)),
        ([(8, 4.0), (8.001, 4.0005)], Line(fixed=0, each=0.5)),
        ([(8, 1.0), (32, 8.0)], "no fixed"),
        ([(8, 2.0), (32, 1.0)], "no each"),
    ],
)
def test_neither_term_is_negative(points, line):
    found = fit(points)
    if line == "no fixed":
        assert found.fixed == 0
        assert 1 / 8 < found.each < 8 / 32
    elif line == "no each":
        assert found.each == 0
        assert 1 < found.fixed < 2
    else:
        assert (found.fixed, found.each) == (line.fixed, pytest.approx(line.each))
