"""The window's driver on a real loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

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
        while not self.driver.full:
            self.driver.count(8192)


@pytest.fixture
async def link() -> AsyncIterator[Link]:
    link = Link()
    yield link
    link.driver.stop()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("flow.send_window", "flow.window_driver"):
        monkeypatch.setattr(f"tailrace.{module}.PATIENCE", 0.05)


async def test_pings_go_out_and_a_pong_opens_the_window(link: Link) -> None:
    link.driver.count(1)
    assert not link.pings
    assert not link.changes
    link.fill()
    assert link.pings
    assert link.changes[-1]
    link.driver.pong_received(link.pings[-1])
    assert not link.changes[-1]
    assert not link.driver.full
    assert link.driver.quantum >= 4096


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
