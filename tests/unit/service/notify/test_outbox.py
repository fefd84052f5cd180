"""Notifications wait, are retried, superseded and given up."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from support.plugins.clock import ClockLoop
from support.waiting import HANG
from tailrace.common.secret import Secret
from tailrace.service.notify.base import Notification, NotifierDown, NotifyFailed
from tailrace.service.notify.outbox import Outbox, OutboxSettings

TOKEN = "trt_the-text-of-a-token"


def notification(
    tunnel: str = "t1",
    text: str = TOKEN,
    expires: float = 100.0,
    *,
    key: str = "AK",
    thing: str = "lamp",
) -> Notification:
    return Notification(
        tunnel, key, thing, f"t/{thing}", Secret(text), "us-east-1", ("SSH",), expires
    )


class Recorder:
    """A notifier that fails as often as it is told to."""

    name = "recorder"

    def __init__(self) -> None:
        self.failures = 0
        self.tried: list[Notification] = []
        self.taken: list[Notification] = []
        self.changed = asyncio.Condition()
        self.gate = asyncio.Event()
        self.gate.set()
        self.closed = False

    async def deliver(self, notification: Notification) -> None:
        async with self.changed:
            self.tried.append(notification)
            self.changed.notify_all()
        await self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise NotifyFailed("not now")
        async with self.changed:
            self.taken.append(notification)
            self.changed.notify_all()

    async def close(self) -> None:
        self.closed = True

    async def wait_taken(self, count: int) -> None:
        async with asyncio.timeout(HANG), self.changed:
            await self.changed.wait_for(lambda: len(self.taken) >= count)

    async def wait_tried(self, count: int) -> None:
        async with asyncio.timeout(HANG), self.changed:
            await self.changed.wait_for(lambda: len(self.tried) >= count)


@asynccontextmanager
async def started(recorder: Recorder, **settings: Any) -> AsyncIterator[Outbox]:
    values = {"retry_first": 0.01, "retry_most": 0.02, "flush_timeout": 0.5} | settings
    outbox = Outbox(recorder, lambda: 50.0, replace(OutboxSettings(), **values))
    outbox.start()
    try:
        yield outbox
    finally:
        await outbox.stop()
    assert recorder.closed


async def test_each_is_delivered_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    recorder = Recorder()
    async with started(recorder) as outbox:
        first, second = notification("t1"), notification("t2")
        outbox.put(first)
        outbox.put(second)
        await recorder.wait_taken(2)
    assert recorder.tried == [first, second]
    assert (outbox.delivered, outbox.failed, outbox.given_up, outbox.waiting) == (2, 0, 0, 0)
    assert "lamp" in caplog.text
    assert TOKEN not in caplog.text


async def test_failures_are_retried(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    recorder.failures = 4
    async with started(recorder) as outbox:
        outbox.put(notification())
        await recorder.wait_taken(1)
    assert len(recorder.tried) == 5
    assert (outbox.delivered, outbox.failed) == (1, 4)
    assert "not now" in caplog.text
    assert TOKEN not in caplog.text


async def test_others_do_not_wait_behind_one_that_fails() -> None:
    recorder = Recorder()
    recorder.failures = 1
    async with started(recorder) as outbox:
        failing, other = notification("t1"), notification("t2")
        outbox.put(failing)
        outbox.put(other)
        await recorder.wait_taken(2)
    assert recorder.taken == [other, failing]


async def test_a_newer_token_takes_the_place_of_the_older() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    async with started(recorder) as outbox:
        blocking, old, new = notification("t0"), notification("t1", "old"), notification("t1")
        outbox.put(blocking)
        await recorder.wait_tried(1)
        outbox.put(old)
        outbox.put(new)
        recorder.gate.set()
        await recorder.wait_taken(2)
    assert recorder.taken == [blocking, new]


async def test_a_newer_token_waits_behind_those_of_other_tunnels() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    async with started(recorder) as outbox:
        blocking, other, new = notification("t0"), notification("t2"), notification("t1")
        outbox.put(blocking)
        await recorder.wait_tried(1)
        for each in (notification("t1", "old"), other, new):
            outbox.put(each)
        recorder.gate.set()
        await recorder.wait_taken(3)
    assert recorder.taken == [blocking, other, new]


async def test_a_failed_one_does_not_come_back_over_a_newer() -> None:
    recorder = Recorder()
    recorder.failures = 1
    recorder.gate.clear()
    async with started(recorder) as outbox:
        outbox.put(notification("t1", "old"))
        await recorder.wait_tried(1)
        new = notification("t1")
        outbox.put(new)
        recorder.gate.set()
        await recorder.wait_taken(1)
    assert recorder.taken == [new]


async def test_a_closed_tunnel_is_not_told_of() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    async with started(recorder) as outbox:
        outbox.put(notification("t0"))
        await recorder.wait_tried(1)
        outbox.put(notification("t1"))
        outbox.cancel("t1")
        outbox.cancel("unknown")
        recorder.gate.set()
        await recorder.wait_taken(1)
    assert [taken.tunnel_id for taken in recorder.taken] == ["t0"]


async def test_an_expired_tunnel_is_given_up() -> None:
    recorder = Recorder()
    async with started(recorder) as outbox:
        outbox.put(notification("t1", expires=50.0))
        outbox.put(notification("t2"))
        await recorder.wait_taken(1)
        assert outbox.given_up == 1
    assert [taken.tunnel_id for taken in recorder.taken] == ["t2"]


async def test_it_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    recorder.gate.clear()
    async with started(recorder, capacity=2) as outbox:
        for number in range(5):
            outbox.put(notification(f"t{number}"))
        assert outbox.waiting == 2
        assert outbox.given_up == 3
        recorder.gate.set()
        await recorder.wait_taken(2)
    # The first one was being delivered.
    assert [taken.tunnel_id for taken in recorder.taken] == ["t0", "t4"]
    assert "tunnel t1: thing lamp will not be notified" in caplog.text


async def test_stopping_delivers_what_it_can() -> None:
    recorder = Recorder()
    outbox = Outbox(recorder, lambda: 50.0)
    outbox.start()
    outbox.put(notification())
    await outbox.stop()
    assert outbox.delivered == 1
    await outbox.stop()


async def test_one_that_comes_to_an_idle_outbox_is_delivered_too() -> None:
    recorder = Recorder()
    outbox = Outbox(recorder, lambda: 50.0)
    outbox.start()
    outbox.put(notification("t1"))
    await recorder.wait_taken(1)
    while not outbox._settled.is_set():
        await asyncio.sleep(0)
    outbox.put(notification("t2"))
    await outbox.stop()
    assert [taken.tunnel_id for taken in recorder.taken] == ["t1", "t2"]


async def test_stopping_does_not_wait_for_the_broker() -> None:
    recorder = Recorder()
    recorder.failures = 1_000_000
    outbox = Outbox(recorder, lambda: 50.0, OutboxSettings(flush_timeout=1e6))
    outbox.start()
    outbox.put(notification())
    async with asyncio.timeout(HANG):
        await outbox.stop()
    await outbox.stop()
    assert (outbox.given_up, outbox.waiting) == (1, 0)


class Scripted(Recorder):
    """Notes when it was asked on a loop whose time passes at once; ``fails`` decides."""

    def __init__(self, fails: Callable[[int, Notification], NotifyFailed | None]) -> None:
        super().__init__()
        self.fails = fails
        self.attempts: list[tuple[float, str]] = []

    async def deliver(self, notification: Notification) -> None:
        now = asyncio.get_running_loop().time()
        self.attempts.append((now, notification.tunnel_id))
        failed = self.fails(len(self.attempts), notification)
        if failed is not None:
            raise failed

    def times_of(self, tunnel: str) -> list[float]:
        return [time for time, tunnel_id in self.attempts if tunnel_id == tunnel]


def play(
    monkeypatch: pytest.MonkeyPatch, recorder: Recorder, *notifications: Notification
) -> Outbox:
    """Let an outbox work for a thousand seconds, with the longest delays chance can give."""

    def longest(least: float, most: float) -> float:
        assert least == most / 2
        return most

    async def run() -> Outbox:
        outbox = Outbox(recorder, lambda: 50.0)
        outbox.start()
        for each in notifications:
            outbox.put(each)
        await asyncio.sleep(1000.0)
        await outbox.stop()
        return outbox

    monkeypatch.setattr("random.uniform", longest)
    loop = ClockLoop()
    outbox = loop.run_until_complete(run())
    loop.close()
    return outbox


def test_delays_double_from_the_first_to_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Scripted(lambda count, _: None if count == 9 else NotifyFailed("not now"))
    play(monkeypatch, recorder, notification("t1"))
    times = [0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0, 123.0, 183.0]
    assert recorder.attempts == [(time, "t1") for time in times]


def test_one_that_fails_delays_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of its key nor of its thing."""

    def fails(_: int, notification: Notification) -> NotifyFailed | None:
        return NotifyFailed("not now") if notification.tunnel_id.startswith("bad") else None

    recorder = Scripted(fails)
    bad = [notification(f"bad{number}") for number in range(50)]
    good = [notification(f"good{number}") for number in range(50)]
    outbox = play(monkeypatch, recorder, *bad, *good)
    assert outbox.delivered == 50
    assert {recorder.times_of(each.tunnel_id)[0] for each in good} == {0.0}
    for each in bad:
        assert recorder.times_of(each.tunnel_id)[:4] == [0.0, 1.0, 3.0, 7.0]


def test_an_outage_is_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """One notification asks whether it is over, however many wait."""
    recorder = Scripted(lambda count, _: None if count in (8, 11) else NotifierDown("no broker"))
    play(monkeypatch, recorder, notification("t1"), notification("t2", thing="pump"))
    # Both at once; then one at a time, until one is delivered.
    times = [time for time, _ in recorder.attempts]
    assert times == [0.0, 0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0, 63.0, 64.0, 66.0]


async def test_one_that_hangs_holds_up_its_thing_only() -> None:
    hanging: list[str] = []

    class Stuck(Recorder):
        async def deliver(self, notification: Notification) -> None:
            if notification.thing_name == "stuck":
                hanging.append(notification.tunnel_id)
                await asyncio.Event().wait()
            await super().deliver(notification)

    recorder = Stuck()
    async with started(recorder, flush_timeout=0.01) as outbox:
        for number in range(20):
            outbox.put(notification(f"stuck{number}", thing="stuck"))
        for number in range(20):
            outbox.put(notification(f"t{number}", thing=f"thing{number}"))
        await recorder.wait_taken(20)
        assert hanging == ["stuck0"]


async def test_one_key_cannot_take_all_places() -> None:
    """However many of its notifications hang, those of another key are delivered at once."""
    hanging: list[str] = []

    class Stuck(Recorder):
        async def deliver(self, notification: Notification) -> None:
            if notification.key_id == "greedy":
                hanging.append(notification.tunnel_id)
                await asyncio.Event().wait()
            await super().deliver(notification)

    recorder = Stuck()
    async with started(recorder, flush_timeout=0.01) as outbox:
        for number in range(100):
            outbox.put(notification(f"g{number}", key="greedy", thing=f"thing{number}"))
        for number in range(100):
            outbox.put(notification(f"t{number}", thing=f"other{number}"))
        await recorder.wait_taken(100)
        assert len(hanging) == OutboxSettings().concurrency_of_key


async def test_keys_and_things_take_turns() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    one_by_one = {"concurrency": 1, "concurrency_of_key": 1}
    async with started(recorder, **one_by_one) as outbox:
        outbox.put(notification("first", key="x", thing="x"))
        await recorder.wait_tried(1)
        for number in range(3):
            outbox.put(notification(f"a-lamp{number}", key="a"))
        outbox.put(notification("a-pump", key="a", thing="pump"))
        outbox.put(notification("b", key="b"))
        recorder.gate.set()
        await recorder.wait_taken(6)
    order = [each.tunnel_id for each in recorder.taken]
    assert order == ["first", "a-lamp0", "b", "a-pump", "a-lamp1", "a-lamp2"]


async def test_one_key_cannot_push_out_the_notifications_of_others() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    async with started(recorder, capacity=10) as outbox:
        for number in range(3):
            outbox.put(notification(f"t{number}", thing=f"thing{number}"))
        for number in range(1000):
            outbox.put(notification(f"g{number}", key="greedy", thing=f"greedy{number}"))
        assert outbox.waiting == 10
        recorder.gate.set()
        await recorder.wait_taken(10)
    taken = [each.tunnel_id for each in recorder.taken]
    assert {"t0", "t1", "t2"} <= set(taken)
    assert len(taken) == 10


async def test_one_that_is_being_delivered_is_not_pushed_out() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    async with started(recorder, capacity=1) as outbox:
        outbox.put(notification("t1", key="a"))
        await recorder.wait_tried(1)
        outbox.put(notification("t2", key="b"))
        assert (outbox.waiting, outbox.given_up) == (1, 1)
        recorder.gate.set()
        await recorder.wait_taken(1)
    assert [each.tunnel_id for each in recorder.taken] == ["t1"]


async def test_nothing_is_kept_of_what_is_over() -> None:
    recorder = Recorder()
    recorder.failures = 3
    async with started(recorder) as outbox:
        for number in range(20):
            outbox.put(notification(f"t{number}", key=f"k{number % 3}", thing=f"{number % 5}"))
            outbox.cancel(f"t{number - 10}")
        await recorder.wait_taken(10)
        async with asyncio.timeout(HANG):
            while outbox._tasks or outbox.waiting:
                await asyncio.sleep(0)
        for kept in (outbox._by_key, outbox._ready, outbox._turns, outbox._lanes_under_way):
            assert not kept
        assert not outbox._keys_under_way


async def test_the_notifier_is_closed_after_the_last_delivery() -> None:
    events: list[str] = []

    class Slow(Recorder):
        async def deliver(self, notification: Notification) -> None:
            events.append("delivering")
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.01)
                events.append("cancelled")

        async def close(self) -> None:
            events.append("closed")

    outbox = Outbox(Slow(), lambda: 50.0, OutboxSettings(flush_timeout=0.01))
    outbox.start()
    outbox.put(notification())
    await outbox.stop()
    assert events == ["delivering", "cancelled", "closed"]


async def test_stopping_breaks_off_a_delivery_that_hangs() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    async with started(recorder, flush_timeout=0.01) as outbox:
        outbox.put(notification())
        await recorder.wait_tried(1)
    assert outbox.given_up == 1


async def test_a_stop_that_is_cancelled_gives_up_at_once() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    outbox = Outbox(recorder, lambda: 50.0, replace(OutboxSettings(), flush_timeout=HANG))
    outbox.start()
    outbox.put(notification())
    await recorder.wait_tried(1)
    task = asyncio.get_running_loop().create_task(outbox.stop())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recorder.closed
    assert (outbox.given_up, outbox.waiting) == (1, 0)
