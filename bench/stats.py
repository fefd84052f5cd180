"""The few statistics of the reports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Line", "Summary", "fit", "quantile", "summarise"]


@dataclass(frozen=True, slots=True)
class Summary:
    """Median and quartiles of the rounds."""

    median: float
    q1: float
    q3: float
    count: int

    @property
    def spread(self) -> float:
        """The interquartile range."""
        return self.q3 - self.q1


@dataclass(frozen=True, slots=True)
class Line:
    """A least-squares line ``y = intercept + slope * x``."""

    slope: float
    intercept: float
    fit: float
    """R squared: 1 when all points lie on the line."""


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the ``share`` quantile (0..1) of ascending values, between neighbours linearly.

    Raises:
        ValueError: there are no values.
    """
    if not ordered:
        raise ValueError("no values")
    at = share * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def summarise(values: Sequence[float]) -> Summary:
    """Return median and quartiles.

    Raises:
        ValueError: there are no values.
    """
    ordered = sorted(values)
    return Summary(
        quantile(ordered, 0.5), quantile(ordered, 0.25), quantile(ordered, 0.75), len(ordered)
    )


def fit(points: Sequence[tuple[float, float]]) -> Line | None:
    """Return the line through the points, ``None`` when their x do not differ."""
    if len({x for x, _ in points}) < 2:
        return None
    mean_x = math.fsum(x for x, _ in points) / len(points)
    mean_y = math.fsum(y for _, y in points) / len(points)
    over = math.fsum((x - mean_x) * (y - mean_y) for x, y in points)
    slope = over / math.fsum((x - mean_x) ** 2 for x, _ in points)
    intercept = mean_y - slope * mean_x
    total = math.fsum((y - mean_y) ** 2 for _, y in points)
    rest = math.fsum((y - intercept - slope * x) ** 2 for x, y in points)
    return Line(slope, intercept, 1.0 - rest / total if total else 1.0)
