"""The scenarios: what is done with a contender, and the figures that come of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from . import in_process
from .contenders import NGINX, PICOWS, PYTHON, REFERENCE, WEBSOCKETS, Contender, Role
from .model import Metric
from .processes import BenchError, Supervisor
from .rig import Rig, Usage

__all__ = ["SCENARIOS", "Bench", "Measured", "Scenario"]

Measured = Iterator[tuple[str, dict[str, float]]]
"""Cases and their figures, as they are measured."""

T = TypeVar("T")

_KIB: Final = 1024
_MIB: Final = 1024 * 1024
_WAYS: Final = ("up", "down")


@dataclass(frozen=True, slots=True)
class Bench:
    """What a scenario gets for one contender in one round."""

    contender: Contender
    quick: bool

    def pick(self, full: T, quick: T) -> T:
        """Return a parameter of the full or the quick benchmark."""
        return quick if self.quick else full

    @contextmanager
    def rig(self, rate: float | None = None) -> Iterator[Rig]:
        """Return the contender at work, over a slow link of ``rate`` bytes a second if given.

        Raises:
            BenchError: something did not start.
        """
        with Supervisor() as supervisor:
            yield Rig(supervisor, self.contender, rate)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario."""

    name: str
    title: str
    cases: tuple[str, ...]
    metrics: tuple[Metric, ...]
    measure: Callable[[Bench, Sequence[str]], Measured]
    """Called with the cases that are wanted. A ``BenchError`` ends it: what it has given counts."""
    contenders: tuple[str, ...] = (PICOWS,)
    """Who is measured, unless others are asked for."""


# One stream and many: how fast, and at what cost

_WARM_UP: Final = 48 * _MIB
_LEAST: Final = 32 * _MIB
_MOST: Final = 8 * 1024 * _MIB

_BULK_METRICS: Final = (
    Metric("rate", "throughput", "MB/s", 0),
    Metric("cpu_ends", "CPU of source + destination", "s/GB", 2),
    Metric("cpu_relay", "CPU of the relay", "s/GB", 2),
    Metric("cpu_source", "CPU of the source", "s/GB", 2),
    Metric("cpu_destination", "CPU of the destination", "s/GB", 2),
    Metric("cpu_generators", "CPU of the load generators", "s/GB", 2),
    Metric("generator", "busiest load generator", "% of a core", 0),
    Metric("peak_source", "peak memory of the source", "MiB", 1),
    Metric("peak_relay", "peak memory of the relay", "MiB", 1),
    Metric("peak_destination", "peak memory of the destination", "MiB", 1),
    Metric("foreign", "machine used by others", "%", 0),
)


def _bulk(bench: Bench, cases: Sequence[str]) -> Measured:
    with bench.rig() as rig:
        rate = _warm(rig)
        for case in cases:
            yield case, _transfer(rig, case, rate * bench.pick(2.5, 0.6), 1)


def _streams(bench: Bench, cases: Sequence[str]) -> Measured:
    with bench.rig() as rig:
        rate = _warm(rig)
        for case in cases:
            streams, way = case.split()
            yield case, _transfer(rig, way, rate * bench.pick(1.5, 0.5), int(streams))


def _warm(rig: Rig) -> float:
    """Move some bytes each way, check some; return the rate in bytes a second."""
    rates: list[float] = []
    for way in _WAYS:
        rig.transfer(way, _WARM_UP // 3, check=True)
        rates.append(_WARM_UP / rig.transfer(way, _WARM_UP)["seconds"])
    return min(rates)


def _transfer(rig: Rig, way: str, size: float, streams: int) -> dict[str, float]:
    size = int(min(max(size, _LEAST), _MOST) / streams)
    for process in rig.roles.values():
        process.reset_peak()
    with rig.usage() as usage:
        result = rig.transfer(way, size, streams)
    gigabytes = size * streams / 1e9
    values = {
        "rate": gigabytes / result["seconds"] * 1e3,
        "cpu_ends": usage.ends / gigabytes,
        "cpu_generators": sum(usage.generators.values()) / gigabytes,
        "generator": max(usage.generators.values()) / usage.seconds * 100,
        "foreign": usage.foreign * 100,
        "evenness": result["first"] / result["seconds"] * 100,
    }
    for role, process in rig.roles.items():
        values[f"cpu_{role.value}"] = usage.cpu[role] / gigabytes
        values[f"peak_{role.value}"] = process.memory("VmHWM") / _MIB
    return values


# Short messages and connections


def _latency(bench: Bench, cases: Sequence[str]) -> Measured:
    with bench.rig() as rig:
        rig.round_trips(0.2)
        for case in cases:
            with rig.usage() as usage:
                answer = rig.round_trips(bench.pick(2.0, 0.5))
            if answer["unanswered"]:
                raise BenchError("an echo was not answered in time")
            yield case, _milliseconds(answer, "p50", "p99", "p999") | _costs(usage, answer["count"])


def _connects(bench: Bench, cases: Sequence[str]) -> Measured:
    with bench.rig() as rig:
        rig.pinger.call("connects", address=rig.echo, seconds=0.2)
        for case in cases:
            with rig.usage() as usage:
                answer = rig.pinger.call("connects", address=rig.echo, seconds=bench.pick(2.5, 0.5))
            rate = {"rate": answer["count"] / answer["seconds"]}
            yield case, rate | _milliseconds(answer, "p50", "p99") | _costs(usage, answer["count"])


def _costs(usage: Usage, count: float) -> dict[str, float]:
    """Return CPU microseconds of each role, and of both ends, for each of ``count`` things."""
    values = {f"us_{role.value}": cpu / count * 1e6 for role, cpu in usage.cpu.items()}
    return values | {"us_ends": usage.ends / count * 1e6}


def _milliseconds(quantiles: dict[str, Any], *names: str) -> dict[str, float]:
    """Return some quantiles of a client's answer, in milliseconds."""
    return {name: quantiles[name] * 1e3 for name in names if name in quantiles}


# Connections that are all open at once, each of which is used and checked

_SETTLE: Final = 0.3
_LEAST_PACE: Final = 200
"""Connections a second that a contender opens, and uses, or else is given up."""
_GRACE: Final = 15.0
"""Seconds for that on top."""


def _concurrency(bench: Bench, cases: Sequence[str]) -> Measured:
    with bench.rig() as rig:
        rig.pinger.call("connects", address=rig.echo, seconds=0.2)
        time.sleep(_SETTLE)
        before = {role: process.memory() for role, process in rig.roles.items()}
        for case in cases:
            count = int(case.split()[0])
            patience = _GRACE + count / _LEAST_PACE
            opened = rig.pinger.call("crowd", patience=patience, address=rig.echo, count=count)
            with rig.usage() as usage:
                echoed = rig.pinger.call("crowd_echo", patience=patience, rounds=2)
            time.sleep(_SETTLE)
            values = {
                "opened": count / opened["seconds"],
                "messages": echoed["count"] / echoed["seconds"],
                "correct": 100.0,  # an answer missing or wrong has ended the measurement
                **_costs(usage, echoed["count"]),
            }
            for role, process in rig.roles.items():
                values[f"mib_{role.value}"] = process.memory() / _MIB
                grown = process.memory() - before[role]
                values[f"kib_{role.value}"] = grown / count / _KIB
            yield case, values


# A reader that stops reading, with a lot behind it, and then goes on

_PATIENCE: Final = 2.0
"""Seconds after which another connection's echo counts as held up."""


def _stalled(bench: Bench, cases: Sequence[str]) -> Measured:
    for case in cases:
        with bench.rig() as rig:
            yield case, _stall(rig, bench, case.removeprefix("bulk "))


def _stall(rig: Rig, bench: Bench, way: str) -> dict[str, float]:
    size, seconds = bench.pick(256, 128) * _MIB, bench.pick(5.0, 3.0)
    sender, reader = (rig.client, rig.sink) if way == "up" else (rig.sink, rig.client)
    highest: dict[Role, int] = {}

    def look() -> None:
        for role, process in rig.roles.items():
            highest[role] = max(highest.get(role, 0), process.memory())

    rig.transfer(way, 16 * _MIB)
    alone = rig.round_trips(1.0, pause=0.01)
    before = {role: process.memory() for role, process in rig.roles.items()}
    already = rig.sink.call("progress")["moved"] if way == "down" else 0
    rig.sink.call("hold")
    rig.client.call(
        "transfer", addresses=[rig.bulk], direction=way, size=size, check=True, held=True
    )
    time.sleep(1.0)
    ends = time.monotonic() + seconds
    beside = rig.round_trips(seconds, pause=0.01, patience=_PATIENCE, meanwhile=look)
    while time.monotonic() < ends:  # the stall lasts as long for those that do not answer
        look()
        time.sleep(0.1)
    look()
    if sender.call("progress")["moved"] - already == size:
        raise BenchError("everything fitted into buffers: nothing stalled")
    reader.call("release")
    begun = time.monotonic()
    result = rig.client.call("wait", patience=300.0)
    taken = time.monotonic() - begun
    growth = {role: (highest[role] - before[role]) / _MIB for role in rig.roles}
    return {
        "growth": max(growth.values()),
        **{f"growth_{role.value}": value for role, value in growth.items()},
        "alone": alone["p50"] * 1e3,
        **_milliseconds(beside, "p50", "p99"),
        "answered": 0.0 if beside["unanswered"] else 100.0,
        "intact": 0.0 if result["fault"] else 100.0,
        "rate": size / taken / 1e6,
    }


# Keystrokes beside a bulk transfer over a slow link

_LINK_RATE: Final = 800_000
"""Bytes a second: what AWS allows a tunnel."""


def _slow_link(bench: Bench, cases: Sequence[str]) -> Measured:
    for case in cases:
        with bench.rig(_LINK_RATE) as rig:
            way = case.removeprefix("bulk ")
            receiver = rig.sink if way == "up" else rig.client
            rig.round_trips(0.5)
            rig.client.call("transfer", addresses=[rig.bulk], direction=way)
            time.sleep(bench.pick(3.0, 2.0))
            before = receiver.call("progress")
            answer = rig.round_trips(bench.pick(12.0, 5.0), pause=0.02)
            after = receiver.call("progress")
            rate = (after["moved"] - before["moved"]) / (after["now"] - before["now"])
            share = {"share": rate / _LINK_RATE * 100}
            yield case, _milliseconds(answer, "p50", "p99", "max") | share


_OF_EACH: Final = (
    Metric("us_ends", "CPU of source + destination", "us each", 0),
    Metric("us_relay", "CPU of the relay", "us each", 0),
)

# The library


def _in_process(bench: Bench, cases: Sequence[str]) -> Measured:
    figures = in_process.round_in_process(bench.pick(64, 8), bench.pick(2000, 200))
    for case in cases:
        yield case, figures[case.replace(" ", "_")]


SCENARIOS: Final = (
    Scenario(
        "bulk",
        "One stream",
        _WAYS,
        _BULK_METRICS,
        _bulk,
        (PICOWS, PYTHON, WEBSOCKETS, NGINX, REFERENCE),
    ),
    Scenario(
        "streams",
        "Many streams at once, all together",
        ("1 up", "64 up", "1 down", "64 down"),
        (*_BULK_METRICS, Metric("evenness", "first stream done after", "% of the time", 0)),
        _streams,
    ),
    Scenario(
        "latency",
        "Round trips",
        ("64 B idle",),
        (
            Metric("p50", "p50", "ms", 3),
            Metric("p99", "p99", "ms", 3),
            Metric("p999", "p99.9", "ms", 3),
            *_OF_EACH,
        ),
        _latency,
        (PICOWS, PYTHON, NGINX, REFERENCE),
    ),
    Scenario(
        "connects",
        "Short connections (open, echo, close)",
        ("one after the other",),
        (
            Metric("rate", "connections", "/s", 0),
            Metric("p50", "p50", "ms", 2),
            Metric("p99", "p99", "ms", 2),
            *_OF_EACH,
        ),
        _connects,
    ),
    Scenario(
        "concurrency",
        "Concurrent connections over one tunnel, every one echoing 64 B",
        ("10000 connections",),
        (
            Metric("kib_source", "memory of the source", "KiB each", 1),
            Metric("kib_destination", "memory of the destination", "KiB each", 1),
            Metric("kib_relay", "memory of the relay", "KiB each", 1),
            Metric("opened", "opened", "/s", 0),
            Metric("messages", "echoed", "/s", 0),
            Metric("us_ends", "CPU of source + destination", "us an echo", 0),
            Metric("correct", "answers that are right", "%", 0),
            Metric("mib_source", "memory of the source", "MiB", 1),
            Metric("mib_destination", "memory of the destination", "MiB", 1),
            Metric("mib_relay", "memory of the relay", "MiB", 1),
        ),
        _concurrency,
    ),
    Scenario(
        "stalled",
        "A stalled reader with 256 MiB behind it",
        ("bulk down", "bulk up"),
        (
            Metric("growth", "growth of the process that grows most", "MiB", 1),
            Metric("growth_source", "growth of the source", "MiB", 1),
            Metric("growth_relay", "growth of the relay", "MiB", 1),
            Metric("growth_destination", "growth of the destination", "MiB", 1),
            Metric("alone", "64 B beside it: p50 before", "ms", 2),
            Metric("p50", "p50 while it stalls", "ms", 2),
            Metric("p99", "p99 while it stalls", "ms", 2),
            Metric("answered", "answered while it stalls", "%", 0),
            Metric("intact", "all bytes intact afterwards", "%", 0),
            Metric("rate", "throughput once it reads again", "MB/s", 0),
        ),
        _stalled,
    ),
    Scenario(
        "slow-link",
        "A link of 800 kB/s with one bulk and one interactive connection",
        ("bulk up", "bulk down"),
        (
            Metric("p50", "64 B p50", "ms", 1),
            Metric("p99", "64 B p99", "ms", 1),
            Metric("max", "64 B slowest", "ms", 1),
            Metric("share", "bulk gets", "% of the link", 1),
        ),
        _slow_link,
    ),
    Scenario(
        "in-process",
        "Connections of the library beside its listener, in one process",
        (*_WAYS, "round trip"),
        (
            Metric("ratio", "times as fast as the listener", "x", 2),
            Metric("cpu_ratio", "CPU of the listener, times its own", "x", 2),
            Metric("rate", "throughput", "MB/s", 0),
            Metric("rate_listener", "throughput of the listener", "MB/s", 0),
            Metric("p50", "64 B p50", "ms", 3),
            Metric("p50_listener", "64 B p50 of the listener", "ms", 3),
        ),
        _in_process,
    ),
)
"""All scenarios in the order in which they run."""
