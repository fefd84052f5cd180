"""Keystrokes beside a bulk transfer, over links that are slow, long or lossy."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..contenders.base import Contender
from ..errors import Unavailable
from ..generators import Generator
from ..model import Better, Metric
from ..processes import Supervisor
from ..rig import BULK, ECHO, Rig
from ..sites import NetworkSite, SlowSite, Weather
from .base import Bench, Measured, Scenario, milliseconds

__all__ = ["LINK_RATE", "Network", "SlowLink"]

LINK_RATE: Final = 800_000
"""Bytes a second: what AWS allows a tunnel."""

_FAST: Final = 12_500_000.0
"""Bytes a second of the long links (100 Mbit/s)."""


class SlowLink(Scenario):
    """The source's link carries 800 kB/s; one connection moves bulk, one types."""

    name = "slow-link"
    title = "A link of 800 kB/s with one bulk and one interactive connection"
    metrics = (
        Metric("p50", "64 B p50", "ms", Better.LOWER, 1),
        Metric("p99", "64 B p99", "ms", Better.LOWER, 1),
        Metric("max", "64 B slowest", "ms", Better.LOWER, 1, detail=True),
        Metric("share", "bulk gets", "% of the link", Better.HIGHER, 1),
    )

    def measure(self, bench: Bench, contender: Contender) -> Iterator[Measured]:
        seconds, lead = bench.pick(12.0, 5.0), bench.pick(3.0, 2.0)
        for case in filter(bench.wants, ("alone", "bulk up", "bulk down")):
            bench.say(case)
            with bench.supervisor.fresh() as supervisor:
                rig = Rig(supervisor, contender, SlowSite(supervisor, LINK_RATE))
                _type(rig, 0.5, 0.0)
                if case == "alone":
                    answer = _type(rig, seconds / 3, 0.02)
                    yield case, milliseconds(answer, "p50", "p99", "max")
                    continue
                answer, rate = _beside(rig, case.removeprefix("bulk "), lead, seconds)
                share = {"share": rate / LINK_RATE * 100}
                yield case, milliseconds(answer, "p50", "p99", "max") | share


class Network(Scenario):
    """Links with a delay and losses, in network namespaces of their own."""

    name = "network"
    title = "Long and lossy links (round-trip time of the source's link)"
    metrics = (
        Metric("idle", "64 B p50, idle", "ms", Better.LOWER, 1),
        Metric("connect", "open, echo, close: p50", "ms", Better.LOWER, 1),
        Metric("up", "bulk up", "MB/s", Better.HIGHER, 2),
        Metric("up_p50", "64 B p50 beside bulk up", "ms", Better.LOWER, 1, detail=True),
        Metric("up_p99", "64 B p99 beside bulk up", "ms", Better.LOWER, 1),
        Metric("down", "bulk down", "MB/s", Better.HIGHER, 2),
        Metric("down_p50", "64 B p50 beside bulk down", "ms", Better.LOWER, 1, detail=True),
        Metric("down_p99", "64 B p99 beside bulk down", "ms", Better.LOWER, 1),
    )
    most_rounds = 3

    def missing(self) -> str | None:
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            try:
                with Supervisor(Path(directory)) as supervisor:
                    NetworkSite(supervisor)
            except Unavailable as reason:
                return str(reason)
        return None

    def measure(self, bench: Bench, contender: Contender) -> Iterator[Measured]:
        weathers = {
            "20 ms": Weather(0.02, _FAST),
            "100 ms": Weather(0.1, _FAST),
            "300 ms": Weather(0.3, _FAST),
            "20 ms, 1 % loss": Weather(0.02, _FAST, loss=0.01),
            "40 ms, 800 kB/s": Weather(0.04, LINK_RATE, queue=0.5),
        }
        for case, weather in weathers.items():
            if not bench.wants(case):
                continue
            bench.say(case)
            with bench.supervisor.fresh() as supervisor:
                yield case, _under(bench, supervisor, contender, weather)


def _under(
    bench: Bench, supervisor: Supervisor, contender: Contender, weather: Weather
) -> dict[str, float]:
    site = NetworkSite(supervisor)
    site.set(weather)
    rig = Rig(supervisor, contender, site)
    seconds, lead = bench.pick(4.0, 3.0), bench.pick(2.0, 1.5)
    idle = _type(rig, 2.0, 0.0)
    connected = rig.pinger.call("connects", **rig.where(ECHO), seconds=seconds / 2, count=20)
    values = {"idle": idle["p50"] * 1e3, "connect": connected["p50"] * 1e3}
    for direction in ("up", "down"):
        answer, rate = _beside(rig, direction, lead, seconds)
        rig.client.call("drop")
        values[direction] = rate / 1e6
        if answer["count"]:
            values[f"{direction}_p50"] = answer["p50"] * 1e3
            values[f"{direction}_p99"] = answer["p99"] * 1e3
        if direction == "up":
            _settle(rig)
    return values


def _settle(rig: Rig) -> None:
    """Let what waits on the way arrive, so that it does not count for the next transfer."""
    last = -1.0
    for _ in range(60):
        received = rig.sink.call("progress")["received"]
        if received == last:
            return
        last = received
        time.sleep(0.5)


def _beside(
    rig: Rig, direction: str, lead: float, seconds: float
) -> tuple[dict[str, float], float]:
    """Type beside a bulk transfer; return the quantiles and the transfer's bytes a second."""
    receiver: Generator = rig.sink if direction == "up" else rig.client
    addresses = [rig.running.endpoints[BULK]]
    rig.client.call("transfer", addresses=addresses, direction=direction)
    time.sleep(lead)
    before = receiver.call("progress")
    answer = _type(rig, seconds, 0.02)
    after = receiver.call("progress")
    rate = (after["received"] - before["received"]) / (after["now"] - before["now"])
    return answer, rate


def _type(rig: Rig, seconds: float, pause: float) -> dict[str, float]:
    answer: dict[str, float] = rig.pinger.call(
        "round_trips",
        **rig.where(ECHO),
        size=64,
        count=100_000,
        seconds=seconds,
        pause=pause,
        warm_up=2,
    )
    return answer
