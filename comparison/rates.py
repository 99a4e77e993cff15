"""The search for a form's learning rate."""

from collections.abc import Callable

FACTOR = 2.0
MOST = 6
"""Rates that are tried for a form."""


def best_rate(first: float, accuracy_at: Callable[[float], float]) -> float:
    """The learning rate with the highest accuracy, of half of ``first``, ``first`` and its double.

    Where the best is the lowest or the highest that was tried, the next one beyond is tried too,
    until one is worse, or ``MOST`` were tried.
    """
    tried = {rate: accuracy_at(rate) for rate in (first, first / FACTOR, first * FACTOR)}
    while True:
        best = max(tried, key=tried.__getitem__)
        further = {max(tried): best * FACTOR, min(tried): best / FACTOR}.get(best)
        if further is None or len(tried) == MOST:
            return best
        tried[further] = accuracy_at(further)
