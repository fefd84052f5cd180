"""The figures that must hold, and whether they do.

Ratios are taken between medians of one run. A figure that was not measured is neither
held nor broken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from ..contenders.registry import PICOWS, WEBSOCKETS
from ..model import Results

__all__ = ["Verdict", "judge"]

_NGINX: Final = "nginx"
_REFERENCE: Final = "reference"
_DIRECTIONS: Final = ("up", "down")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One figure that must hold."""

    what: str
    measured: str
    limit: str
    holds: bool | None
    """``None``: not measured."""


@dataclass(frozen=True, slots=True)
class _Limit:
    """A bound, from below or from above."""

    value: float
    unit: str = ""
    is_least: bool = False
    digits: int = 2

    def judge(self, what: str, measured: float | None) -> Verdict:
        """Compare."""
        limit = f"{'>=' if self.is_least else '<='} {self.value:g}{self.unit}"
        if measured is None:
            return Verdict(what, "not measured", limit, None)
        holds = measured >= self.value if self.is_least else measured <= self.value
        return Verdict(what, f"{measured:.{self.digits}f}{self.unit}", limit, holds)


def _least(value: float, unit: str = "", digits: int = 2) -> _Limit:
    return _Limit(value, unit, is_least=True, digits=digits)


def _most(value: float, unit: str = "", digits: int = 2) -> _Limit:
    return _Limit(value, unit, digits=digits)


def judge(results: Results) -> list[Verdict]:
    """Return the verdicts that this run allows, in the order of the requirements."""
    parts: Iterable[Callable[[Results], Iterator[Verdict]]] = (
        _throughput,
        _cpu,
        _round_trips,
        _slow_link,
        _connections,
        _stalled,
        _links,
    )
    return [verdict for part in parts for verdict in part(results)]


def _ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None


def _times(results: Results, scenario: str, case: str, metric: str, other: str) -> float | None:
    """Return tailrace's median as a multiple of another contender's."""
    return _ratio(
        results.median(scenario, case, PICOWS, metric),
        results.median(scenario, case, other, metric),
    )


def _throughput(results: Results) -> Iterator[Verdict]:
    for other, factor in ((_NGINX, 1.0), (_REFERENCE, 3.0)):
        for direction in _DIRECTIONS:
            measured = _times(results, "bulk", direction, "rate", other)
            yield _least(factor, " x").judge(f"one stream {direction} against {other}", measured)
    for direction in _DIRECTIONS:
        many = results.median("streams", f"64 {direction}", PICOWS, "rate")
        one = results.median("streams", f"1 {direction}", PICOWS, "rate")
        yield _least(0.9, " x").judge(
            f"64 streams {direction}, all together, against one", _ratio(many, one)
        )


def _cpu(results: Results) -> Iterator[Verdict]:
    for other, factor in ((_NGINX, 0.95), (_REFERENCE, round(1 / 3, 3))):
        for direction in _DIRECTIONS:
            yield _most(factor, " x").judge(
                f"CPU of source + destination for a GB {direction} against {other}",
                _times(results, "bulk", direction, "cpu_ends", other),
            )


def _round_trips(results: Results) -> Iterator[Verdict]:
    for other, factor in ((_NGINX, 1.4), (_REFERENCE, 1.0)):
        yield _most(factor, " x").judge(
            f"64 B round trip p50 against {other}",
            _times(results, "latency", "64 B idle", "p50", other),
        )


def _slow_link(results: Results) -> Iterator[Verdict]:
    for direction in _DIRECTIONS:
        case = f"bulk {direction}"
        yield _most(300, " ms", 0).judge(
            f"64 B p99 on a link of 800 kB/s beside bulk {direction}",
            results.median("slow-link", case, PICOWS, "p99"),
        )
        yield _least(80, " %", 1).judge(
            f"bulk {direction} gets of that link",
            results.median("slow-link", case, PICOWS, "share"),
        )


def _connections(results: Results) -> Iterator[Verdict]:
    case = "10000 connections"
    echoed = results.values("concurrency", case, PICOWS, "messages")
    if echoed or results.failed("concurrency", PICOWS):
        failures = len(results.failed("concurrency", PICOWS))
        yield Verdict(
            "10,000 concurrent connections echo correctly",
            f"{len(echoed)} rounds well, {failures} failed",
            "every round",
            bool(echoed) and not failures,
        )
    for end in ("source", "destination"):
        yield _most(24, " KiB", 1).judge(
            f"memory of one of 10,000 connections in the {end}",
            results.median("concurrency", case, PICOWS, f"kib_{end}"),
        )
    yield _least(500, " /s", 0).judge(
        "connections one after the other",
        results.median("connects", "one after the other", PICOWS, "rate"),
    )


def _stalled(results: Results) -> Iterator[Verdict]:
    for direction in _DIRECTIONS:
        case = f"bulk {direction}"
        yield _most(32, " MiB", 1).judge(
            f"stalled reader, bulk {direction}: growth of any process",
            results.median("stalled", case, PICOWS, "growth"),
        )
        answered = results.values("stalled", case, PICOWS, "answered")
        yield _least(100, " %", 0).judge(
            f"stalled reader, bulk {direction}: rounds in which others go on",
            sum(answered) / len(answered) if answered else None,
        )
        intact = results.values("stalled", case, PICOWS, "intact")
        yield _least(100, " %", 0).judge(
            f"stalled reader, bulk {direction}: rounds in which all bytes are intact",
            sum(intact) / len(intact) if intact else None,
        )


def _links(results: Results) -> Iterator[Verdict]:
    for direction in _DIRECTIONS:
        yield _least(0.85, " x").judge(
            f"websockets link {direction} against picows",
            _ratio(
                results.median("bulk", direction, WEBSOCKETS, "rate"),
                results.median("bulk", direction, PICOWS, "rate"),
            ),
        )
