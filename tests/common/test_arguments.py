"""Command lines take whole numbers within their limits, and nothing else."""

from argparse import ArgumentTypeError

import pytest

from common.arguments import listed, whole


def test_whole_numbers_and_lists_of_them_are_read():
    assert whole()("007") == 7
    assert whole(0)("0") == 0
    assert whole(2, 64)("64") == 64
    assert listed(whole())("32,128") == [32, 128]


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "+1", "1.0", "1e3", " 1", "1_0", "٣", "²", "101", "9" * 5000, "1,2"]
)
def test_anything_else_is_refused_with_the_limits(text):
    with pytest.raises(ArgumentTypeError, match=r"from 1 to 100$"):
        whole(1, 100)(text)


def test_a_list_with_a_wrong_part_is_refused():
    with pytest.raises(ArgumentTypeError, match="''"):
        listed(whole())("1,,2")
