"""Counts values by size, so cheaply that the busiest loop can afford it."""

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """How many values were at most each bound, and their sum; read at leisure by whoever shows it."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        # The last count is of the values beyond every bound.
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """One value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
