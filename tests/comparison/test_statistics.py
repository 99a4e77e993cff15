"""Paired differences."""

import pytest

from comparison.statistics import paired_difference


def test_a_difference_is_paired_by_seed():
    # Of 1, 2 and 3: mean 2, standard error 1 / sqrt(3); the quantile of Student's t at 2 degrees of
    # freedom is 4.3027, and P(|t| > 2 sqrt(3)) = 0.0742.
    found = paired_difference([11.0, 22.0, 33.0], [10.0, 20.0, 30.0])
    assert found is not None
    half = 4.302653 / 3**0.5
    assert found == pytest.approx((2.0, 2 - half, 2 + half, 0.074180), rel=1e-4)


def test_seeds_that_agree_tell_a_small_difference_from_noise():
    others = [0.80, 0.90, 0.70]
    found = paired_difference([each + 0.01 + 1e-4 * n for n, each in enumerate(others)], others)
    assert found is not None
    assert found.low > 0
    assert found.p < 1e-3


@pytest.mark.parametrize("values", [[0.9], [0.9, 0.8]])
def test_nothing_is_said_where_no_spread_is_known(values):
    assert paired_difference(values, values) is None
