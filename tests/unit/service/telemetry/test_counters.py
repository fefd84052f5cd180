"""Plain numbers, and the two that take a little arithmetic."""

import asyncio

from support.plugins.clock import ManualClock
from support.waiting import HANG
from tailrace.service.telemetry.counters import Counters, LoopLag, StallClock
from tailrace.wire import Side


def test_stalls_that_are_over_and_stalls_that_go_on() -> None:
    clock = ManualClock(100.0)
    stalls = StallClock(clock)
    assert (stalls.stalled, stalls.seconds) == (0, 0.0)
    first = stalls.begin()
    clock.now += 2
    second = stalls.begin()
    clock.now += 3
    assert (stalls.stalled, stalls.seconds) == (2, 8.0)
    stalls.end(first)
    clock.now += 1
    assert (stalls.stalled, stalls.seconds) == (1, 9.0)
    stalls.end(second)
    clock.now += 100
    assert (stalls.stalled, stalls.seconds) == (0, 9.0)


def test_lag_is_sorted_into_buckets() -> None:
    lag = LoopLag()
    for late in (0.0, 0.001, 0.0011, 3.0):
        lag.record(late)
    assert lag.buckets[0] == 2
    assert lag.buckets[1] == 1
    assert lag.buckets[-1] == 1
    assert sum(lag.buckets) == 4
    assert abs(lag.sum - 3.0021) < 1e-9


async def test_a_loop_that_is_held_up_shows(loop_kind: str) -> None:
    import time

    lag = LoopLag()
    lag.start()
    try:
        async with asyncio.timeout(HANG):
            while lag.sum <= 0.1:  # not all of it counts that began before the time was up
                await asyncio.sleep(LoopLag.INTERVAL * 0.9)
                time.sleep(0.3)  # noqa: ASYNC251 - that is what is looked for
                await asyncio.sleep(0.01)
    finally:
        lag.stop()
    assert sum(lag.buckets)
    lag.stop()


def test_both_sides_are_counted_apart() -> None:
    counters = Counters(ManualClock(100.0))
    counters.traffic[Side.SOURCE].messages += 1
    assert counters.traffic[Side.DESTINATION].messages == 0
