"""What it takes before anything is carried: start-up, memory, disk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from ..contenders.base import Contender
from ..model import Better, Metric
from ..rig import ECHO
from .base import Bench, Measured, Scenario

__all__ = ["Footprint"]

_MIB: Final = 1024 * 1024


class Footprint(Scenario):
    """Start it, let it rest, look at it."""

    name = "footprint"
    title = "Start-up, rest and size"
    metrics = (
        Metric("ready_source", "source ready after", "ms", Better.LOWER, 0),
        Metric("ready_destination", "destination ready after", "ms", Better.LOWER, 0),
        Metric("ready_relay", "relay ready after", "ms", Better.LOWER, 0),
        Metric("rss_source", "idle memory of the source", "MiB", Better.LOWER, 1),
        Metric("rss_destination", "idle memory of the destination", "MiB", Better.LOWER, 1),
        Metric("rss_relay", "idle memory of the relay", "MiB", Better.LOWER, 1),
        Metric("idle_source", "CPU of the idle source", "ms/s", Better.LOWER, 2),
        Metric("idle_relay", "CPU of the idle relay", "ms/s", Better.LOWER, 2, detail=True),
        Metric("installed", "installed size", "MiB", Better.LOWER, 1),
    )

    def excludes(self, contender: Contender) -> str | None:
        return "has no process of its own" if contender.name == "direct" else None

    def measure(self, bench: Bench, contender: Contender) -> Iterator[Measured]:
        rig = bench.rig(contender)
        values: dict[str, float] = {}
        for role, process in rig.roles.items():
            taken = process.ready_at - process.started_at
            values[f"ready_{role.value}"] = taken * 1e3
        rig.pinger.call("connects", **rig.where(ECHO), seconds=0.5, count=5)
        time.sleep(1.0)
        bench.say("at rest")
        with rig.usage() as usage:
            time.sleep(bench.pick(5.0, 2.0))
        for role, cpu in usage.cpu.items():
            values[f"rss_{role.value}"] = rig.rss(role) / _MIB
            values[f"idle_{role.value}"] = cpu / usage.seconds * 1e3
        size = contender.installed_size()
        if size is not None:
            values["installed"] = size / _MIB
        yield "at rest", values
