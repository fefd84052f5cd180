"""Short connections, and many that stay."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from ..contenders.base import Contender
from ..model import Better, Metric
from ..rig import ECHO
from .base import Bench, Growth, Measured, Scenario, cost_values, milliseconds

__all__ = ["Concurrency", "Connects"]

_KIB: Final = 1024
_SETTLE: Final = 0.3
_LEAST_PACE: Final = 200
"""Connections a second that a contender opens, and uses, or else is given up."""
_GRACE: Final = 15.0
"""Seconds for that on top."""


class Connects(Scenario):
    """Open, send a byte, take it back, close."""

    name = "connects"
    title = "Short connections (open, echo, close)"
    metrics = (
        Metric("rate", "connections", "/s", Better.HIGHER, 0),
        Metric("p50", "p50", "ms", Better.LOWER, 2),
        Metric("p99", "p99", "ms", Better.LOWER, 2),
        Metric("us_ends", "CPU of source + destination", "us each", Better.LOWER, 0, detail=True),
        Metric("us_relay", "CPU of the relay", "us each", Better.LOWER, 0, detail=True),
    )

    def measure(self, bench: Bench, contender: Contender) -> Iterator[Measured]:
        rig = bench.rig(contender)
        seconds, count = bench.pick(2.5, 0.7), bench.pick(20_000, 4000)
        rig.pinger.call("connects", **rig.where(ECHO), seconds=0.5, count=20)
        for case, at_once in (("one after the other", 1), ("64 at a time", 64)):
            if not bench.wants(case):
                continue
            bench.say(case)
            with rig.usage() as usage:
                answer = rig.pinger.call(
                    "connects", **rig.where(ECHO), seconds=seconds, count=count, at_once=at_once
                )
            yield (
                case,
                {"rate": answer["count"] / answer["seconds"]}
                | milliseconds(answer, "p50", "p99")
                | cost_values(usage, answer["count"]),
            )


class Concurrency(Scenario):
    """Connections that are all open at once, each of which is used and checked."""

    name = "concurrency"
    title = "Concurrent connections over one tunnel, every one echoing 64 B"
    metrics = (
        Metric("kib_source", "memory of the source", "KiB each", Better.LOWER, 1),
        Metric("kib_destination", "memory of the destination", "KiB each", Better.LOWER, 1),
        Metric("kib_relay", "memory of the relay", "KiB each", Better.LOWER, 1),
        Metric("opened", "opened", "/s", Better.HIGHER, 0),
        Metric("messages", "echoed", "/s", Better.HIGHER, 0),
        Metric("us_ends", "CPU of source + destination", "us an echo", Better.LOWER, 0),
        Metric("correct", "answers that are right", "%", Better.HIGHER, 0, detail=True),
        Metric("mib_source", "memory of the source", "MiB", Better.LOWER, 1, detail=True),
        Metric("mib_destination", "memory of the destination", "MiB", Better.LOWER, 1, detail=True),
        Metric("mib_relay", "memory of the relay", "MiB", Better.LOWER, 1, detail=True),
    )
    growth = (
        Growth("mib_source", "memory of the source", "KiB per connection", _KIB),
        Growth("mib_destination", "memory of the destination", "KiB per connection", _KIB),
        Growth("mib_relay", "memory of the relay", "KiB per connection", _KIB),
        Growth("us_ends", "CPU of an echo at both ends", "us per 1,000 connections", 1e3),
    )

    def measure(self, bench: Bench, contender: Contender) -> Iterator[Measured]:
        rig = bench.rig(contender)
        rig.pinger.call("connects", **rig.where(ECHO), seconds=0.5, count=20)
        time.sleep(_SETTLE)
        before = {role: rig.rss(role) for role in rig.roles}
        for count in (100, 1000, 10_000):
            case = f"{count} connections"
            if not bench.wants(case):
                continue
            refusal = contender.refuses(count)
            if refusal is not None:
                bench.left_out(case, refusal)
                break
            bench.say(case)
            budget = _GRACE + count / _LEAST_PACE
            opened = rig.pinger.call(
                "crowd", **rig.where(ECHO), count=count, budget=budget, patience=2 * budget
            )
            rounds = max(2, bench.pick(20_000, 4000) // count)
            with rig.usage() as usage:
                echoed = rig.pinger.call(
                    "crowd_echo", size=64, rounds=rounds, budget=budget, patience=2 * budget
                )
            time.sleep(_SETTLE)
            values = {
                "opened": opened["opened"] / opened["seconds"],
                "messages": echoed["messages"] / echoed["seconds"],
                "correct": 100.0,  # an answer missing or wrong has ended the measurement
                **cost_values(usage, echoed["messages"]),
            }
            for role in rig.roles:
                grown = rig.rss(role)
                values[f"mib_{role.value}"] = grown / _KIB**2
                values[f"kib_{role.value}"] = (grown - before[role]) / count / _KIB
            yield case, values
        rig.pinger.call("crowd_close")
