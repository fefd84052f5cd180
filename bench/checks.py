"""The figures that must hold, and whether they do.

Ratios are taken between medians of one run. A figure that was not measured is neither
held nor broken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from .contenders import NGINX, PICOWS, PYTHON, REFERENCE, WEBSOCKETS
from .model import Figure, Results

__all__ = ["REQUIREMENTS", "Verdict", "judge"]

_WAYS: Final = ("up", "down")


class Verdict(NamedTuple):
    """One figure that must hold."""

    what: str
    measured: str
    limit: str
    holds: bool | None
    """``None``: not measured."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """A median, or the ratio of two, that stays within a limit; or something that always holds."""

    what: str
    figure: Figure
    sign: str
    """``>=`` or ``<=``; ``always``: the limit is reached in every round, and none fails."""
    limit: float
    unit: str = " x"
    digits: int = 2
    contender: str = PICOWS
    against: tuple[Figure, str] | None = None
    """Figure and contender of the ratio's other side."""

    @property
    def sides(self) -> Sequence[tuple[Figure, str]]:
        """What has to be measured for it: figures, each with a contender."""
        own = (self.figure, self.contender)
        return (own,) if self.against is None else (own, self.against)

    def judge(self, results: Results) -> Verdict:
        """Compare what was measured with the limit."""
        if self.sign == "always":
            return self._judge_rounds(results)
        limit = f"{self.sign} {self.limit:,g}{self.unit}"
        value, *others = (results.median(figure, contender) for figure, contender in self.sides)
        if value is None or not all(others):
            return Verdict(self.what, "not measured", limit, None)
        for other in others:
            value /= other or math.nan
        holds = value >= self.limit if self.sign == ">=" else value <= self.limit
        return Verdict(self.what, f"{value:,.{self.digits}f}{self.unit}", limit, holds)

    def _judge_rounds(self, results: Results) -> Verdict:
        values = results.values(self.figure, self.contender)
        rounds = len(values) + len(results.failed(self.figure.scenario, self.contender))
        good = sum(value >= self.limit for value in values)
        if not rounds:
            return Verdict(self.what, "not measured", "every round", None)
        return Verdict(self.what, f"{good} of {rounds} rounds", "every round", good == rounds)


def _bulk() -> Iterator[Requirement]:
    """Throughput, and what it costs."""
    for other, limit in ((NGINX, 0.82), (REFERENCE, 2.3)):
        for way in _WAYS:
            rate = Figure("bulk", way, "rate")
            what = f"one stream {way}, against {other}"
            yield Requirement(what, rate, ">=", limit, against=(rate, other))
    for way in _WAYS:
        one, many = (Figure("streams", f"{count} {way}", "rate") for count in (1, 64))
        what = f"64 streams {way} together, against one"
        yield Requirement(what, many, ">=", 0.9, against=(one, PICOWS))
    for way in _WAYS:
        cost = Figure("bulk", way, "cpu_ends")
        what = f"CPU of source + destination per GB {way}, against {NGINX}"
        yield Requirement(what, cost, "<=", 1.4, digits=3, against=(cost, NGINX))


def _latency() -> Iterator[Requirement]:
    """Round trips, alone and beside bulk on a slow link."""
    p50 = Figure("latency", "64 B idle", "p50")
    for other, limit in ((NGINX, 1.35), (REFERENCE, 0.85)):
        what = f"64 B round trip p50, against {other}"
        yield Requirement(what, p50, "<=", limit, against=(p50, other))
    for way in _WAYS:
        p99, share = (Figure("slow-link", f"bulk {way}", name) for name in ("p99", "share"))
        what = f"800 kB/s link, bulk {way}"
        yield Requirement(f"{what}: 64 B round trip p99", p99, "<=", 300, " ms", 0)
        yield Requirement(f"{what}: bulk gets of the link", share, ">=", 80, " %", 1)


def _connections() -> Iterator[Requirement]:
    """Ten thousand connections, and short ones."""
    correct, source, destination = (
        Figure("concurrency", "10000 connections", name)
        for name in ("correct", "kib_source", "kib_destination")
    )
    what = "memory of one of 10,000 connections"
    yield Requirement("10,000 connections echo correctly", correct, "always", 100)
    yield Requirement(f"{what}, source", source, "<=", 24, " KiB", 1)
    yield Requirement(f"{what}, destination", destination, "<=", 24, " KiB", 1)
    rate = Figure("connects", "one after the other", "rate")
    yield Requirement("connections one after the other", rate, ">=", 500, " /s", 0)


def _stalled() -> Iterator[Requirement]:
    """A reader that stalls."""
    for way in _WAYS:
        growth, answered, intact = (
            Figure("stalled", f"bulk {way}", name) for name in ("growth", "answered", "intact")
        )
        what = f"stalled reader, bulk {way}"
        yield Requirement(f"{what}: growth of any process", growth, "<=", 32, " MiB", 1)
        yield Requirement(f"{what}: others are answered", answered, "always", 100)
        yield Requirement(f"{what}: all bytes intact afterwards", intact, "always", 100)


def _links() -> Iterator[Requirement]:
    """The two links of tailrace."""
    for way in _WAYS:
        rate = Figure("bulk", way, "rate")
        what = f"websockets link {way}, against {PYTHON}"
        yield Requirement(what, rate, ">=", 0.85, contender=WEBSOCKETS, against=(rate, PYTHON))


def _library() -> Iterator[Requirement]:
    """Connections of the library, beside those of its own listener."""
    for case in (*_WAYS, "round trip"):
        what = f"library in process, {case}, against its listener"
        yield Requirement(what, Figure("in-process", case, "ratio"), ">=", 1.0)


REQUIREMENTS: Final = (
    *_bulk(),
    *_latency(),
    *_connections(),
    *_stalled(),
    *_links(),
    *_library(),
)
"""What must hold, in the order of the report."""


def judge(results: Results) -> list[Verdict]:
    """Return a verdict on everything that must hold in the scenarios that were run."""
    run = {sample.scenario for sample in results.samples}
    run |= {failure.scenario for failure in results.failures}
    return [each.judge(results) for each in REQUIREMENTS if each.figure.scenario in run]
