"""A reader that stops reading, with a lot behind it, and then goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from ..contenders.base import Contender
from ..errors import BenchError
from ..model import Better, Metric
from ..rig import BULK, ECHO, Rig
from ..site import Role
from .base import Bench, Measured, Scenario, milliseconds

__all__ = ["Stalled"]

_MIB: Final = 1024 * 1024
_PATIENCE: Final = 2.0
"""Seconds after which another connection's echo counts as held up."""


class Stalled(Scenario):
    """One connection stalls; another one types."""

    name = "stalled"
    title = "A stalled reader with 256 MiB behind it"
    metrics = (
        Metric("growth", "growth of the process that grows most", "MiB", Better.LOWER, 1),
        Metric("growth_source", "growth of the source", "MiB", Better.LOWER, 1, detail=True),
        Metric("growth_relay", "growth of the relay", "MiB", Better.LOWER, 1, detail=True),
        Metric(
            "growth_destination", "growth of the destination", "MiB", Better.LOWER, 1, detail=True
        ),
        Metric("alone", "64 B beside it: p50 before", "ms", Better.LOWER, 2),
        Metric("p50", "p50 while it stalls", "ms", Better.LOWER, 2),
        Metric("p99", "p99 while it stalls", "ms", Better.LOWER, 2),
        Metric("answered", "answered while it stalls", "%", Better.HIGHER, 0),
        Metric("intact", "all bytes intact afterwards", "%", Better.HIGHER, 0),
        Metric("rate", "throughput once it reads again", "MB/s", Better.HIGHER, 0),
    )

    def measure(self, bench: Bench, contender: Contender) -> Iterator[Measured]:
        for direction in ("down", "up"):
            if not bench.wants(f"bulk {direction}"):
                continue
            bench.say(f"bulk {direction}")
            with bench.supervisor.fresh() as supervisor:
                rig = Rig(supervisor, contender)
                yield f"bulk {direction}", _stall(rig, bench, direction)


def _stall(rig: Rig, bench: Bench, direction: str) -> dict[str, float]:
    size = bench.pick(256, 128) * _MIB
    seconds = bench.pick(5.0, 3.0)
    sender = rig.client if direction == "up" else rig.sink
    reader = rig.sink if direction == "up" else rig.client
    rig.transfer(direction, 16 * _MIB)
    alone = _type(rig, 1.0, {})
    before = {role: rig.rss(role) for role in rig.roles}
    already = sender.call("progress")["sent"] if direction == "down" else 0
    if direction == "up":
        rig.sink.call("hold")
    rig.client.call(
        "transfer",
        addresses=[rig.running.endpoints[BULK]],
        direction=direction,
        size=size,
        check=True,
        held=direction == "down",
    )
    time.sleep(1.0)
    grown: dict[Role, int] = {}
    beside = _type(rig, seconds, grown)
    behind = size - (sender.call("progress")["sent"] - already)
    reader.call("release")
    begun = time.monotonic()
    result = rig.client.call("wait", patience=300.0)
    taken = time.monotonic() - begun
    if result["fault"]:
        bench.say(f"bulk {direction}: {result['fault']}")
    if not behind:
        raise BenchError("everything fitted into buffers: nothing stalled")
    growth = {role: (grown[role] - before[role]) / _MIB for role in rig.roles}
    values = {f"growth_{role.value}": value for role, value in growth.items()}
    if growth:
        values["growth"] = max(growth.values())
    return values | {
        "alone": alone["p50"] * 1e3,
        **milliseconds(beside, "p50", "p99"),
        "answered": 0.0 if beside["unanswered"] else 100.0,
        "intact": 0.0 if result["fault"] else 100.0,
        "rate": size / taken / 1e6,
    }


def _type(rig: Rig, seconds: float, grown: dict[Role, int]) -> dict[str, float]:
    """Send short messages for a while; note the highest memory of each role meanwhile."""

    def look() -> None:
        for role in rig.roles:
            grown[role] = max(grown.get(role, 0), rig.rss(role))

    look()
    rig.pinger.send(
        "round_trips",
        **rig.where(ECHO),
        size=64,
        count=100_000,
        seconds=seconds,
        pause=0.01,
        warm_up=0,
        patience=_PATIENCE,
    )
    answer: dict[str, float] = rig.pinger.receive("round_trips", meanwhile=look)
    if answer["unanswered"]:
        # The stall goes on as long as for those that have answered.
        ends = time.monotonic() + seconds - _PATIENCE
        while time.monotonic() < ends:
            look()
            time.sleep(0.1)
    look()
    return answer
