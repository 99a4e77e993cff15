"""Lines through measured times."""

from collections.abc import Callable, Iterable

from planning.machine import Line

APART = 1.5
"""Counts that tell the two terms of a line apart, as a ratio."""


def fit(points: Iterable[tuple[float, float]]) -> Line:
    """The line through (count, seconds) with the smallest relative errors, neither term negative.

    Through points whose counts are nearly one, the line through zero.
    """
    points = [(count, seconds) for count, seconds in points if count]
    weights = [1 / max(seconds, 1e-12) ** 2 for _, seconds in points]

    def total(of: Callable[[float, float], float]) -> float:
        return sum(w * of(*point) for w, point in zip(weights, points, strict=True))

    n, t = total(lambda c, s: 1), total(lambda c, s: s)
    c1, c2, cs = total(lambda c, s: c), total(lambda c, s: c * c), total(lambda c, s: c * s)
    spread = n * c2 - c1 * c1
    counts = [count for count, _ in points]
    if max(counts) < APART * min(counts):
        return Line(fixed=0.0, each=cs / c2)
    each = (n * cs - c1 * t) / spread
    fixed = (t - each * c1) / n
    if fixed < 0:
        return Line(fixed=0.0, each=cs / c2)
    if each < 0:
        return Line(fixed=t / n, each=0.0)
    return Line(fixed=fixed, each=each)
