"""The search for a learning rate."""

import pytest

from comparison.rates import MOST, best_rate


def _search(first, accuracies):
    """The rate that is found, and those that were tried, in order."""
    tried = []

    def accuracy_at(rate):
        tried.append(rate)
        return accuracies(rate)

    return best_rate(first, accuracy_at), tried


def test_the_best_of_three_is_taken_where_it_lies_between_the_others():
    assert _search(0.02, lambda rate: -abs(rate - 0.02)) == (0.02, [0.02, 0.01, 0.04])


@pytest.mark.parametrize(
    ("best", "further"), [(0.16, [0.08, 0.16, 0.32]), (0.005, [0.005, 0.0025])]
)
def test_it_goes_on_until_a_rate_is_worse(best, further):
    found, tried = _search(0.02, lambda rate: -abs(rate - best))
    assert found == best
    assert tried == [0.02, 0.01, 0.04, *further]


def test_no_rate_is_tried_twice_and_not_more_than_some():
    found, tried = _search(1.0, lambda rate: rate)
    assert found == tried[-1] == 2.0 ** (MOST - 2)
    assert len(tried) == len(set(tried)) == MOST


def test_a_net_that_fails_at_every_rate_ends_the_search():
    found, tried = _search(1.0, lambda rate: 0.0)
    assert found in tried
    assert len(tried) <= MOST
