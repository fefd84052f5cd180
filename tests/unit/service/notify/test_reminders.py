"""Notifications come again until their thing has connected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from support.plugins.clock import ClockLoop
from tailrace.common.secret import Secret
from tailrace.service.notify.base import Notification, NotifyFailed
from tailrace.service.notify.outbox import Outbox
from tailrace.service.notify.reminders import Reminders


def notification(tunnel: str = "t1", text: str = "token") -> Notification:
    return Notification(
        tunnel, "AK", "lamp", "t/lamp", Secret(text), "us-east-1", ("SSH",), expires_at=1e9
    )


class Recorder:
    """Notes what was delivered, and when."""

    name = "recorder"

    def __init__(self) -> None:
        self.taken: list[tuple[float, str]] = []
        self.fails_until = 0.0

    async def deliver(self, notification: Notification) -> None:
        now = asyncio.get_running_loop().time()
        if now < self.fails_until:
            raise NotifyFailed("not now")
        self.taken.append((round(now), notification.access_token.reveal()))

    async def close(self) -> None:
        pass


Scenario = Callable[[Recorder, Reminders], Coroutine[Any, Any, None]]


def played(scenario: Scenario, **options: Any) -> list[tuple[float, str]]:
    """Return what was delivered in an hour, seconds after its begin, and its token."""
    recorder = Recorder()

    async def play() -> None:
        outbox = Outbox(recorder, asyncio.get_running_loop().time)
        outbox.start()
        reminders = Reminders(outbox, **options)
        await scenario(recorder, reminders)
        await asyncio.sleep(3600)
        reminders.stop()
        await outbox.stop()

    with asyncio.Runner(loop_factory=ClockLoop) as runner:
        runner.run(play())
    return recorder.taken


def test_later_and_later_and_not_for_ever() -> None:
    async def never_connects(_: Recorder, reminders: Reminders) -> None:
        reminders.put(notification())

    assert [when for when, _ in played(never_connects)] == [0, 10, 30, 70, 150]


@pytest.mark.parametrize("seconds", [1, 15, 200])
def test_not_once_its_thing_has_connected(seconds: int) -> None:
    async def connects(_: Recorder, reminders: Reminders) -> None:
        reminders.put(notification())
        await asyncio.sleep(seconds)
        reminders.cancel("t1")
        reminders.cancel("another")

    assert [when for when, _ in played(connects)] == [
        when for when in (0, 10, 30, 70, 150) if when < seconds
    ]


def test_a_rotation_replaces_it() -> None:
    async def rotates(_: Recorder, reminders: Reminders) -> None:
        reminders.put(notification(text="old"))
        await asyncio.sleep(15)
        reminders.put(notification(text="new"))

    found = played(rotates, delays=(10.0, 20.0))
    assert found == [(0, "old"), (10, "old"), (15, "new"), (25, "new"), (45, "new")]


def test_what_is_not_delivered_yet_is_not_put_again() -> None:
    async def fails_at_first(recorder: Recorder, reminders: Reminders) -> None:
        recorder.fails_until = 95.0
        reminders.put(notification())

    taken = [when for when, _ in played(fails_at_first, delays=(10.0, 20.0))]
    # Once by the outbox, and after that at most as often as there are delays.
    assert len(taken) == 3
    assert taken[0] >= 95


def test_there_is_a_most_of_them() -> None:
    async def many(_: Recorder, reminders: Reminders) -> None:
        for number in range(3):
            reminders.put(notification(f"t{number}", f"token {number}"))

    taken = [text for _, text in played(many, delays=(10.0,), capacity=2)]
    assert sorted(taken) == ["token 0", "token 1", "token 1", "token 2", "token 2"]


def test_a_test_comes_once() -> None:
    async def tries(_: Recorder, reminders: Reminders) -> None:
        reminders.put(replace(notification(), is_test=True))

    assert [when for when, _ in played(tries)] == [0]


def test_nothing_comes_after_the_end() -> None:
    async def ends(_: Recorder, reminders: Reminders) -> None:
        reminders.put(notification())
        await asyncio.sleep(1)
        reminders.stop()

    assert [when for when, _ in played(ends)] == [0]
