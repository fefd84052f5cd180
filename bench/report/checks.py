"""The figures that must hold, and whether they do.

Ratios are taken between medians of one run. A figure that was not measured is neither
held nor broken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ..contenders.registry import PICOWS, WEBSOCKETS
from ..model import Results
from ..selection import Part

__all__ = ["REQUIREMENTS", "Verdict", "judge", "needed"]

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
    unit: str
    is_least: bool
    digits: int

    def __str__(self) -> str:
        return f"{'>=' if self.is_least else '<='} {self.value:,g}{self.unit}"

    def holds(self, measured: float) -> bool:
        """Compare."""
        return measured >= self.value if self.is_least else measured <= self.value


@dataclass(frozen=True, slots=True)
class _Figure:
    """Where a figure of the results stands."""

    scenario: str
    case: str
    metric: str
    contender: str = PICOWS

    def of(self, contender: str) -> _Figure:
        """Return the same figure of another contender."""
        return _Figure(self.scenario, self.case, self.metric, contender)

    def median(self, results: Results) -> float | None:
        """Return the median over the rounds, ``None`` if it was not measured."""
        return results.median(self.scenario, self.case, self.contender, self.metric)


@dataclass(frozen=True, slots=True)
class _Bound:
    """A median, or the ratio of two, that stays within a limit."""

    what: str
    figure: _Figure
    limit: _Limit
    against: _Figure | None = None

    def figures(self) -> Sequence[_Figure]:
        """Return what has to be measured for it."""
        return (self.figure,) if self.against is None else (self.figure, self.against)

    def judge(self, results: Results) -> Verdict:
        """Compare what was measured with the limit."""
        measured = self.figure.median(results)
        if measured is not None and self.against is not None:
            other = self.against.median(results)
            measured = measured / other if other else None
        if measured is None:
            return Verdict(self.what, "not measured", str(self.limit), None)
        shown = f"{measured:,.{self.limit.digits}f}{self.limit.unit}"
        return Verdict(self.what, shown, str(self.limit), self.limit.holds(measured))


@dataclass(frozen=True, slots=True)
class _Always:
    """Something that is so in every round; the figure is the share of it, 100 % if it is."""

    what: str
    figure: _Figure

    def figures(self) -> Sequence[_Figure]:
        """Return what has to be measured for it."""
        return (self.figure,)

    def judge(self, results: Results) -> Verdict:
        """Count the rounds; one that failed counts against it."""
        figure = self.figure
        found = results.values(figure.scenario, figure.case, figure.contender, figure.metric)
        failed = {failure.round for failure in results.failed(figure.scenario, figure.contender)}
        rounds = len(found) + len(failed)
        if not rounds:
            return Verdict(self.what, "not measured", "every round", None)
        good = sum(value >= 100 for value in found)
        return Verdict(self.what, f"{good} of {rounds} rounds", "every round", good == rounds)


def _least(value: float, unit: str, digits: int = 2) -> _Limit:
    return _Limit(value, unit, True, digits)


def _most(value: float, unit: str, digits: int = 2) -> _Limit:
    return _Limit(value, unit, False, digits)


def _against(what: str, figure: _Figure, limit: _Limit, other: str) -> _Bound:
    return _Bound(f"{what}, against {other}", figure, limit, figure.of(other))


def _bulk() -> list[_Bound]:
    """Throughput, and what it costs."""
    found = []
    for other, rate in ((_NGINX, 1.0), (_REFERENCE, 3.0)):
        for way in _DIRECTIONS:
            figure = _Figure("bulk", way, "rate")
            found.append(_against(f"one stream {way}", figure, _least(rate, " x"), other))
    for way in _DIRECTIONS:
        many, one = (_Figure("streams", f"{count} {way}", "rate") for count in (64, 1))
        what = f"64 streams {way} together, against one"
        found.append(_Bound(what, many, _least(0.9, " x"), one))
    for other, cost in ((_NGINX, 0.95), (_REFERENCE, 0.333)):
        for way in _DIRECTIONS:
            figure = _Figure("bulk", way, "cpu_ends")
            what = f"CPU of source + destination per GB {way}"
            found.append(_against(what, figure, _most(cost, " x", 3), other))
    return found


def _latency() -> list[_Bound]:
    """Round trips, alone and beside bulk on a slow link."""
    figure = _Figure("latency", "64 B idle", "p50")
    found = [
        _against("64 B round trip p50", figure, _most(limit, " x"), other)
        for other, limit in ((_NGINX, 1.4), (_REFERENCE, 1.0))
    ]
    for way in _DIRECTIONS:
        p99, share = (_Figure("slow-link", f"bulk {way}", name) for name in ("p99", "share"))
        what = f"800 kB/s link, bulk {way}"
        found += [
            _Bound(f"{what}: 64 B round trip p99", p99, _most(300, " ms", 0)),
            _Bound(f"{what}: bulk gets of the link", share, _least(80, " %", 1)),
        ]
    return found


def _connections() -> list[_Bound | _Always]:
    """Ten thousand connections, and short ones."""
    case = "10000 connections"
    ends = [
        _Bound(
            f"memory of one of 10,000 connections, {end}",
            _Figure("concurrency", case, f"kib_{end}"),
            _most(24, " KiB", 1),
        )
        for end in ("source", "destination")
    ]
    rate = _Figure("connects", "one after the other", "rate")
    return [
        _Always("10,000 connections echo correctly", _Figure("concurrency", case, "correct")),
        *ends,
        _Bound("connections one after the other", rate, _least(500, " /s", 0)),
    ]


def _stalled() -> list[_Bound | _Always]:
    """A reader that stalls."""
    found: list[_Bound | _Always] = []
    for way in _DIRECTIONS:
        growth, answered, intact = (
            _Figure("stalled", f"bulk {way}", name) for name in ("growth", "answered", "intact")
        )
        what = f"stalled reader, bulk {way}"
        found += [
            _Bound(f"{what}: growth of any process", growth, _most(32, " MiB", 1)),
            _Always(f"{what}: others are answered", answered),
            _Always(f"{what}: all bytes intact afterwards", intact),
        ]
    return found


def _links() -> list[_Bound]:
    """The two links of tailrace."""
    found = []
    for way in _DIRECTIONS:
        figure = _Figure("bulk", way, "rate", WEBSOCKETS)
        found.append(_against(f"websockets link {way}", figure, _least(0.85, " x"), PICOWS))
    return found


REQUIREMENTS: Final[Sequence[_Bound | _Always]] = (
    *_bulk(),
    *_latency(),
    *_connections(),
    *_stalled(),
    *_links(),
)
"""What must hold, in the order of the report."""


def judge(results: Results) -> list[Verdict]:
    """Return a verdict on everything that must hold in the scenarios that were run."""
    run = set(results.scenarios())
    return [
        requirement.judge(results)
        for requirement in REQUIREMENTS
        if run.intersection(figure.scenario for figure in requirement.figures())
    ]


def needed() -> list[Part]:
    """Return what has to be measured to judge everything, and nothing else."""
    figures = (figure for requirement in REQUIREMENTS for figure in requirement.figures())
    return list(dict.fromkeys(Part(f.scenario, f.case, f.contender) for f in figures))
