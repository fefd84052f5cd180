from __future__ import annotations

import asyncio

import pytest

from tailrace.library.event_stream import EventsDropped, EventStream
from tailrace.localproxy.events import Connecting, PeerJoined
from tailrace.wire import Side

EVENTS = [Connecting(f"host:{number}") for number in range(10_010)]


async def test_events_come_in_order_and_end():
    stream = EventStream()
    for event in EVENTS[:3]:
        stream.put(event)
    stream.end()
    assert [event async for event in stream] == EVENTS[:3]
    assert [event async for event in stream] == []


async def test_who_waits_is_woken(loop_kind: str):
    stream = EventStream()
    loop = asyncio.get_running_loop()
    waiting = [loop.create_task(anext(stream)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    stream.put(PeerJoined(Side.SOURCE))
    await asyncio.sleep(0)
    stream.put(PeerJoined(Side.DESTINATION))
    assert await waiting[1] == PeerJoined(Side.SOURCE)
    assert await waiting[2] == PeerJoined(Side.DESTINATION)
    last = loop.create_task(anext(stream))
    await asyncio.sleep(0)
    stream.end()
    with pytest.raises(StopAsyncIteration):
        await last


async def test_a_slow_reader_misses_the_oldest_and_is_told():
    stream = EventStream()
    for event in EVENTS:
        stream.put(event)
    stream.end()
    seen = [event async for event in stream]
    assert seen == [EventsDropped(10), *EVENTS[10:]]
