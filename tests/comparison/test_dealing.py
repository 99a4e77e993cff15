"""Kernels dealt to the towers at random."""

import numpy as np
import pytest
from PIL import Image

from comparison.dealing import chance_of, chance_of_all, dealt, draw_dealing


@pytest.mark.parametrize(
    ("table", "chance"),
    [
        ([(5, 5), (5, 5)], 1.0),
        ([(3, 0), (0, 3)], 0.1),  # 2 of the 20 ways to deal six kernels to two towers
        ([(0, 48), (48, 0)], 0.0),
        ([(0, 0), (0, 0)], None),
        ([(20, 28)], None),
        ([], None),
    ],
)
def test_the_chance_of_a_table_is_that_of_dealing_at_random(table, chance):
    assert chance_of(table) == (chance if chance is None else pytest.approx(chance, abs=1e-12))


def test_the_numbers_that_dealing_can_give_tower_0():
    counts, chances = dealt([(3, 0), (0, 3)])  # 20 ways to deal six kernels, three of them colour
    assert list(counts) == [0, 1, 2, 3]
    assert list(20 * chances) == pytest.approx([1, 9, 9, 1])
    counts, chances = dealt([(0, 48), (2, 46)])
    assert list(counts) == [0, 1, 2]
    assert np.sum(chances) == pytest.approx(1)


def test_several_chances_together_are_less_likely_than_each():
    assert chance_of_all([0.1]) == pytest.approx(0.1)
    assert chance_of_all([0.1, 0.1, 0.1]) < 0.1
    assert chance_of_all([1.0, 1.0]) == pytest.approx(1.0)


def test_a_row_is_drawn_for_each_net(tmp_path):
    tables = {f"net {n}": [(20 + n, 28 - n), (25, 23)] for n in range(3)}
    draw_dealing(tables, tmp_path / "chance.png")
    assert Image.open(tmp_path / "chance.png").size == (800, 520)
