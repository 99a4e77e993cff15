"""Differences between forms of the net, tested against chance."""

from collections.abc import Sequence
from statistics import mean
from typing import NamedTuple

from scipy.stats import ttest_rel

CONFIDENCE = 0.95


class Difference(NamedTuple):
    """A mean difference, its 95 % interval, and how likely chance alone gives one as large."""

    mean: float
    low: float
    high: float
    p: float


def paired_difference(values: Sequence[float], others: Sequence[float]) -> Difference | None:
    """The difference ``values`` - ``others``, seed by seed, by Student's t-test for pairs.

    None with fewer than two seeds, and where all differences are equal, so that nothing is known of
    their spread.
    """
    differences = [a - b for a, b in zip(values, others, strict=True)]
    if len(set(differences)) < 2:
        return None
    test = ttest_rel(values, others)
    interval = test.confidence_interval(CONFIDENCE)
    return Difference(
        mean(differences), float(interval.low), float(interval.high), float(test.pvalue)
    )
