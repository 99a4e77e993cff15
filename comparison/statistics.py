"""Means over seeds, and the difference between two forms trained with the same seeds."""

from collections.abc import Sequence
from statistics import mean, stdev
from typing import NamedTuple

from scipy.stats import ttest_rel

CONFIDENCE = 0.95


class Spread(NamedTuple):
    """A mean with the standard deviation of a sample; None of a single value."""

    mean: float
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of one or more values."""
        return cls(mean(values), stdev(values) if len(values) > 1 else None)


class Difference(NamedTuple):
    """A mean difference, its 95 % interval, and how likely chance alone gives one as large."""

    mean: float
    low: float
    high: float
    p: float

    @property
    def is_noise(self) -> bool:
        """True where the interval contains zero."""
        return self.low <= 0 <= self.high


def paired_difference(values: Sequence[float], others: Sequence[float]) -> Difference | None:
    """Of ``values`` less ``others``, seed by seed: Student's t-test for pairs (scipy's).

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
