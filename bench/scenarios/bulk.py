"""One stream and many: how fast, at what cost, and how evenly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ..contenders.base import Contender
from ..model import Better, Metric
from ..rig import Rig
from .base import BULK_METRICS, Bench, Measured, Scenario, bulk_values

__all__ = ["Bulk", "Streams"]

_WARM_UP: Final = 48 * 1024 * 1024
_LEAST: Final = 32 * 1024 * 1024
_MOST: Final = 8 * 1024 * 1024 * 1024
_DIRECTIONS: Final = ("up", "down")


def _warm(rig: Rig) -> float:
    """Move and check some bytes each way; return the rate in bytes a second."""
    rates: list[float] = []
    for direction in _DIRECTIONS:
        rig.transfer(direction, _WARM_UP // 3, check=True)
        result = rig.transfer(direction, _WARM_UP)
        rates.append(_WARM_UP / result["seconds"])
    return min(rates)


def _measure(
    rig: Rig, direction: str, rate: float, seconds: float, streams: int
) -> dict[str, float]:
    """Transfer for about ``seconds`` and return the figures of the bulk metrics."""
    ways = 2 if direction == "both" else 1
    size = int(min(max(rate * seconds, _LEAST), _MOST) / streams / ways)
    rig.reset_peaks()
    with rig.usage() as usage:
        result = rig.transfer(direction, size, streams)
    moved = size * streams * ways
    values = bulk_values(rig, usage, moved, result["seconds"])
    values["evenness"] = result["first"] / result["seconds"] * 100
    return values


class Bulk(Scenario):
    """One connection, as much as it can take."""

    name = "bulk"
    title = "One stream"
    metrics = BULK_METRICS

    def measure(self, bench: Bench, contender: Contender) -> Iterator[Measured]:
        rig = bench.rig(contender)
        rate = _warm(rig)
        for direction in filter(bench.wants, (*_DIRECTIONS, "both")):
            bench.say(direction)
            yield direction, _measure(rig, direction, rate, bench.pick(2.5, 0.6), 1)


class Streams(Scenario):
    """Many connections at once that share the tunnel."""

    name = "streams"
    title = "Many streams at once, all together"
    metrics = (
        *BULK_METRICS,
        Metric("evenness", "first stream done after", "% of the time", Better.HIGHER, 0),
    )

    def measure(self, bench: Bench, contender: Contender) -> Iterator[Measured]:
        rig = bench.rig(contender)
        rate = _warm(rig)
        for direction in _DIRECTIONS:
            for streams in (1, 4, 16, 64):
                case = f"{streams} {direction}"
                if not bench.wants(case):
                    continue
                bench.say(case)
                yield case, _measure(rig, direction, rate, bench.pick(1.5, 0.5), streams)
