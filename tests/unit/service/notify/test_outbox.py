"""Notifications wait, are retried, superseded and given up."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from support.plugins.clock import ClockLoop
from support.waiting import HANG
from tailrace.common.secret import Secret
from tailrace.service.notify.base import Notification, NotifyFailed
from tailrace.service.notify.outbox import Outbox, OutboxSettings

TOKEN = "trt_the-text-of-a-token"


def notification(tunnel: str = "t1", text: str = TOKEN, expires: float = 100.0) -> Notification:
    return Notification(tunnel, "lamp", Secret(text), "us-east-1", ("SSH",), expires)


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
    assert [taken.tunnel_id for taken in recorder.taken] == ["t3", "t4"]
    assert "tunnel t0: thing lamp will not be notified" in caplog.text


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


def test_delays_double_from_the_first_to_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = ClockLoop()
    attempts: list[float] = []

    class Failing(Recorder):
        async def deliver(self, notification: Notification) -> None:
            attempts.append(loop.time())
            if len(attempts) not in (8, 11):
                raise NotifyFailed("not now")

    def longest(least: float, most: float) -> float:
        assert least == most / 2
        return most

    async def run() -> None:
        outbox = Outbox(Failing(), lambda: 50.0)
        outbox.start()
        outbox.put(notification("t1"))
        outbox.put(notification("t2"))
        await asyncio.sleep(1000.0)
        await outbox.stop()

    monkeypatch.setattr("random.uniform", longest)
    loop.run_until_complete(run())
    loop.close()
    # Seven failures, a success, after which the delay is the first again, two failures, the end.
    assert attempts == [0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0, 123.0, 123.0, 124.0, 126.0]


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
