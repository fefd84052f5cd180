"""Keystrokes: short messages there and back, alone and beside a bulk transfer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ..contenders.base import Contender
from ..errors import BenchError
from ..model import Better, Metric
from ..rig import BULK, ECHO, Rig
from .base import Bench, Growth, Measured, Scenario, cost_values, milliseconds

__all__ = ["Latency", "Messages"]

_SIZES: Final = {"1 B": 1, "64 B": 64, "1 KiB": 1024}
_P50: Final = Metric("p50", "p50", "ms", Better.LOWER, 3)
_P99: Final = Metric("p99", "p99", "ms", Better.LOWER, 3)


class Latency(Scenario):
    """Round trips on one connection."""

    name = "latency"
    title = "Round trips"
    metrics = (
        _P50,
        _P99,
        Metric("p999", "p99.9", "ms", Better.LOWER, 3),
        Metric("us_ends", "CPU of source + destination", "us each", Better.LOWER, 0, detail=True),
        Metric("us_relay", "CPU of the relay", "us each", Better.LOWER, 0, detail=True),
        Metric("beside", "the bulk transfer beside it", "MB/s", Better.HIGHER, 0, detail=True),
    )

    def measure(self, bench: Bench, contender: Contender) -> Iterator[Measured]:
        rig = bench.rig(contender)
        count, seconds = bench.pick(5000, 400), bench.pick(2.0, 0.8)
        _ping(rig, 64, 200, 2.0)
        for case, size in _cases(bench, "idle"):
            bench.say(case)
            with rig.usage() as usage:
                answer = _ping(rig, size, count, seconds)
            yield (
                case,
                milliseconds(answer, "p50", "p99", "p999") | cost_values(usage, answer["count"]),
            )
        for direction in ("up", "down"):
            cases = _cases(bench, f"beside bulk {direction}")
            if not cases:
                continue
            receiver = rig.sink if direction == "up" else rig.client
            where = [rig.running.endpoints[BULK]]
            rig.client.call("transfer", addresses=where, direction=direction)
            try:
                for case, size in cases:
                    bench.say(case)
                    before = receiver.call("progress")
                    answer = _ping(rig, size, count, seconds)
                    after = receiver.call("progress")
                    taken = after["now"] - before["now"]
                    beside = (after["received"] - before["received"]) / taken
                    yield (
                        case,
                        milliseconds(answer, "p50", "p99", "p999") | {"beside": beside / 1e6},
                    )
            except BenchError as error:
                bench.failed(f"beside bulk {direction}: {error}")
            rig.client.call("drop")


class Messages(Scenario):
    """What a message costs, from the growth of the cost with their number."""

    name = "messages"
    title = "Cost of 64-byte messages, there and back"
    metrics = (
        Metric("cpu_ends", "CPU of source + destination", "ms", Better.LOWER, 0),
        Metric("cpu_relay", "CPU of the relay", "ms", Better.LOWER, 0),
        Metric("us_ends", "CPU of source + destination", "us each", Better.LOWER, 1),
    )
    growth = (
        Growth("cpu_ends", "CPU of source + destination", "us per round trip", 1e3),
        Growth("cpu_relay", "CPU of the relay", "us per round trip", 1e3),
    )

    def excludes(self, contender: Contender) -> str | None:
        return "has no process of its own" if contender.name == "direct" else None

    def measure(self, bench: Bench, contender: Contender) -> Iterator[Measured]:
        rig = bench.rig(contender)
        _ping(rig, 64, 200, 2.0)
        for count in bench.pick((1000, 4000, 16_000), (200, 800, 2000)):
            case = f"{count} messages"
            if not bench.wants(case):
                continue
            bench.say(case)
            with rig.usage() as usage:
                answer = _ping(rig, 64, count, 120.0)
            values = cost_values(usage, answer["count"])
            values["cpu_ends"] = usage.ends * 1e3
            values |= {f"cpu_{role.value}": cpu * 1e3 for role, cpu in usage.cpu.items()}
            yield case, values


def _cases(bench: Bench, circumstance: str) -> list[tuple[str, int]]:
    """Return the cases that are wanted with their message sizes in bytes."""
    cases = [(f"{name} {circumstance}", size) for name, size in _SIZES.items()]
    return [(case, size) for case, size in cases if bench.wants(case)]


def _ping(rig: Rig, size: int, count: int, seconds: float) -> dict[str, float]:
    answer: dict[str, float] = rig.pinger.call(
        "round_trips", **rig.where(ECHO), size=size, count=count, seconds=seconds, warm_up=5
    )
    if answer["unanswered"] or not answer["count"]:
        raise BenchError(f"an echo of {size} bytes was not answered in time")
    return answer
