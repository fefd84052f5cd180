"""Notifications of a source, one after the other."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from tailrace.agent.notifications import notifications
from tailrace.agent.sources.base import Delivery, Receive


def payload(token: str, **changes: object) -> bytes:
    document = {"clientAccessToken": token, "clientMode": "destination", "services": ["SSH"]}
    return json.dumps(document | changes).encode()


class Source:
    """Delivers payloads, notes which were acknowledged, and ends, fails or waits."""

    def __init__(self, *payloads: bytes, end: BaseException | None = None, stay: bool = False):
        self.payloads = payloads
        self.acknowledged: list[bytes] = []
        self.cancelled = False
        self._end = end
        self._stay = stay

    @property
    def name(self) -> str:
        return "test"

    def status(self) -> str:
        return "ready"

    async def run(self, receive: Receive) -> None:
        try:
            for each in self.payloads:
                await receive(Delivery(each))
                self.acknowledged.append(each)
            if self._stay:
                await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if self._end is not None:
            raise self._end


async def test_each_is_acknowledged_when_the_next_is_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    payloads = payload("a"), b"junk", payload("x", clientMode="source"), payload("b")
    source = Source(*payloads)
    tokens = []
    async for notification in notifications(source):
        tokens.append(notification.access_token.reveal())
        assert payloads[-1] not in source.acknowledged
        assert len(source.acknowledged) == (0 if len(tokens) == 1 else 3)
    assert tokens == ["a", "b"]
    assert source.acknowledged == [*payloads]
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.INFO]


async def test_the_source_ends_with_the_iteration() -> None:
    source = Source(payload("a"), payload("b"), stay=True)
    found = notifications(source)
    async for _ in found:
        break
    await found.aclose()
    assert source.acknowledged == []
    assert source.cancelled


async def test_it_can_be_cancelled_while_it_waits() -> None:
    source = Source(stay=True)

    async def iterate() -> None:
        async for _ in notifications(source):
            raise AssertionError

    running = asyncio.get_running_loop().create_task(iterate())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert source.cancelled


async def test_a_source_that_fails_is_told() -> None:
    with pytest.raises(ZeroDivisionError):
        async for _ in notifications(Source(payload("a"), end=ZeroDivisionError())):
            pass
