"""The window's driver on a real loop, and to the second on one with a clock of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from support.plugins.clock import ClockLoop
from tailrace.flow.window_driver import WindowDriver


class Link:
    """What was pinged, and what the driver said while it did."""

    def __init__(self) -> None:
        self.pings: list[bytes] = []
        self.changes: list[bool] = []
        self.driver = WindowDriver(asyncio.get_running_loop(), self.pings.append, self.changed)

    def changed(self) -> None:
        self.changes.append(self.driver.full)

    def fill(self) -> None:
        for _ in range(10_000):
            if self.driver.full:
                return
            self.driver.count(8192)
        raise AssertionError("the window is never full")


@pytest.fixture
async def link() -> AsyncIterator[Link]:
    link = Link()
    yield link
    link.driver.stop()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("flow.send_window", "flow.window_driver"):
        monkeypatch.setattr(f"tailrace.{module}.PATIENCE", 0.05)


@pytest.mark.parametrize(("missing", "grows"), [(0, True), (1, False)])
async def test_turns_that_are_used_up_widen_a_window_that_is_never_full(
    link: Link, missing: int, grows: bool
) -> None:
    link.driver.start()
    link.driver.pong_received(link.pings.pop())
    before = link.driver.quantum
    for _ in range(20):
        link.driver.count(link.driver.quantum - missing)
        assert not link.driver.full
        while link.pings:
            link.driver.pong_received(link.pings.pop(0))
    assert (link.driver.quantum > before) is grows


async def test_pings_go_out_and_a_pong_opens_the_window(link: Link) -> None:
    link.driver.start()
    assert len(link.pings) == 1
    link.driver.count(1)
    assert len(link.pings) == 1
    link.changes.clear()
    link.fill()
    assert len(link.pings) == 2
    assert link.changes[-1]
    link.driver.pong_received(link.pings[-1])
    assert not link.changes[-1]
    assert not link.driver.full
    assert link.driver.quantum > 1024


@pytest.mark.usefixtures("impatient")
async def test_a_full_window_opens_without_pongs(link: Link) -> None:
    link.fill()
    async with asyncio.timeout(60):
        while link.driver.full:
            await asyncio.sleep(0.01)
    assert link.changes[-2:] == [True, False]
    asked = len(link.pings)
    for _ in range(100):
        link.driver.count(65_536)
    assert len(link.pings) == asked


@pytest.mark.usefixtures("impatient")
async def test_each_pong_is_worth_patience(link: Link) -> None:
    link.fill()
    for _ in range(10):
        await asyncio.sleep(0.02)
        link.driver.pong_received(link.pings[-1])
        link.fill()
        # It would not ask any more after a wait in vain.
        assert link.driver.full
    async with asyncio.timeout(60):
        while link.driver.full:
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("impatient")
async def test_a_window_that_has_opened_is_left_alone(link: Link) -> None:
    link.fill()
    link.driver.pong_received(link.pings[-1])
    changes = len(link.changes)
    await asyncio.sleep(0.1)
    assert len(link.changes) == changes


async def test_nothing_is_bound_while_suspended(link: Link) -> None:
    link.fill()
    changes = len(link.changes)
    link.driver.suspend()
    assert not link.driver.full
    link.driver.resume()
    assert not link.driver.full
    assert len(link.changes) == changes
    link.fill()


@pytest.mark.usefixtures("impatient")
async def test_nothing_is_said_after_the_end(link: Link) -> None:
    link.fill()
    link.driver.stop()
    await asyncio.sleep(0.1)
    assert link.changes[-1]


# -- to the second -----------------------------------------------------------------------


def played(monkeypatch: pytest.MonkeyPatch, scene: Callable[[Link], Awaitable[None]]) -> Link:
    """Play a scene with a link on a clock that starts at 0, and 100 seconds more."""

    async def play() -> Link:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(f"{WindowDriver.__module__}._now", loop.time)
        link = Link()
        await scene(link)
        await asyncio.sleep(100)
        return link

    with asyncio.Runner(loop_factory=ClockLoop) as runner:
        return runner.run(play())


def test_patience_lasts_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(link: Link) -> None:
        link.fill()
        await asyncio.sleep(1.75)
        assert link.driver.full
        await asyncio.sleep(0.5)
        assert not link.driver.full
        assert link.changes[-2:] == [True, False]

    link = played(monkeypatch, scene)
    assert link.changes[-2:] == [True, False]


@pytest.mark.parametrize("later", [0.5, 0.25, 1 / 2048])
def test_patience_lasts_two_seconds_from_the_last_pong(
    monkeypatch: pytest.MonkeyPatch, later: float
) -> None:
    async def scene(link: Link) -> None:
        link.fill()
        await asyncio.sleep(later)
        link.driver.pong_received(link.pings[0])
        link.fill()
        # The timer of the first time runs out and is set again.
        await asyncio.sleep(2.0 - later / 2)
        assert link.driver.full
        changes = len(link.changes)
        await asyncio.sleep(later)
        assert not link.driver.full
        assert len(link.changes) == changes + 1

    played(monkeypatch, scene)


def test_a_full_window_waits_for_two_seconds_however_old_the_last_pong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(link: Link) -> None:
        link.driver.count(2048)
        assert link.pings
        await asyncio.sleep(1.0)
        link.fill()
        await asyncio.sleep(1.75)
        assert link.driver.full
        await asyncio.sleep(0.5)
        assert not link.driver.full

    played(monkeypatch, scene)


def test_sending_more_into_a_full_window_changes_no_times(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(link: Link) -> None:
        link.fill()
        link.driver.pong_received(link.pings[-1])
        link.fill()
        await asyncio.sleep(1.0)
        link.driver.count(1)
        await asyncio.sleep(1.25)
        assert not link.driver.full
        link.fill()
        await asyncio.sleep(3.5)
        assert link.driver.full
        await asyncio.sleep(0.5)
        assert not link.driver.full

    played(monkeypatch, scene)


def test_each_full_window_waits_twice_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing is read, as much as the window passes each time, and no more."""

    async def scene(link: Link) -> None:
        link.fill()
        link.driver.pong_received(link.pings[-1])
        size = link.driver.window.size
        for patience in (2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0):
            before = link.driver.window.sent
            link.fill()
            assert size <= link.driver.window.sent - before < size + 8192
            # The first window is filled at once, the others a quarter of a second later.
            await asyncio.sleep(patience - (0.25 if patience == 2.0 else 0.5))
            assert link.driver.full
            await asyncio.sleep(0.5)
            assert not link.driver.full

    played(monkeypatch, scene)


def test_no_timer_is_left_when_the_window_opens_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(link: Link) -> None:
        link.fill()
        await asyncio.sleep(0.5)
        link.driver.pong_received(link.pings[-1])
        changes = len(link.changes)
        await asyncio.sleep(2.0)
        assert len(link.changes) == changes
        # The next full window has patience of its own.
        link.fill()
        await asyncio.sleep(1.75)
        assert link.driver.full
        await asyncio.sleep(0.5)
        assert not link.driver.full

    played(monkeypatch, scene)


def test_a_full_window_stays_as_it_is_after_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(link: Link) -> None:
        link.fill()
        link.driver.stop()

    link = played(monkeypatch, scene)
    assert link.driver.full
    assert link.changes[-1]


def test_pings_go_out_at_the_marks_and_when_a_pong_asks_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(link: Link) -> None:
        link.driver.count(2047)
        assert (link.pings, link.changes) == ([], [])
        link.driver.count(1)
        assert (link.pings, link.changes) == ([b"w1"], [False])
        link.driver.pong_received(b"not of the window")
        assert (link.pings, link.changes) == ([b"w1"], [False, False])
        # The window grows; when it is narrowed, what was sent since the last ping fills it.
        link.driver.count(16 * 1024 * 1024)
        link.driver.pong_received(b"w2")
        await asyncio.sleep(11.0)
        link.driver.count(5 * 1024 * 1024)
        link.driver.count(1024 * 1024)
        assert link.pings == [b"w1", b"w2", b"w3"]
        await asyncio.sleep(0.1)
        link.driver.pong_received(b"w3")
        assert link.pings == [b"w1", b"w2", b"w3", b"w4"]
        assert link.changes[-1]

    played(monkeypatch, scene)
