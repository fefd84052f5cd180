"""The box on the way does what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from support.network.applications import application, check_closed, check_echo, client, echo
from support.network.middlebox import Middlebox
from support.network.sockets import Streams
from support.waiting import HANG
from tailrace.common.addresses import TCPAddress


@asynccontextmanager
async def boxed() -> AsyncIterator[tuple[Middlebox, Streams]]:
    """A connection to an echo through a box."""
    async with application(echo) as where:
        assert isinstance(where, TCPAddress)
        box = Middlebox(where.host, where.port, "127.0.0.1")
        await box.start()
        try:
            async with client(TCPAddress("127.0.0.1", box.port)) as streams:
                await check_echo(streams, b"through the box")
                assert box.connected == 1
                yield box, streams
        finally:
            await box.stop()


async def test_a_finished_connection_ends_in_order() -> None:
    async with boxed() as (box, streams):
        box.finish()
        await check_closed(streams)
        assert not streams[0].exception()


async def test_a_cut_connection_is_reset() -> None:
    async with boxed() as (box, (reader, _)):
        box.cut()
        with pytest.raises(ConnectionResetError):
            await reader.read()


async def test_nothing_leaves_a_black_hole_before_it_is_released() -> None:
    async with boxed() as (box, (reader, writer)):
        box.swallow()
        writer.write(b"later")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await reader.read(1)
        box.release()
        async with asyncio.timeout(HANG):
            assert await reader.readexactly(5) == b"later"


async def test_rate_and_delay_change_under_way() -> None:
    async with boxed() as (box, streams):
        clock = asyncio.get_running_loop().time
        box.delay = 0.02
        begun = clock()
        await check_echo(streams, b"slow")
        assert clock() - begun >= 0.04  # a sleep is never too short
        box.delay = 0.0
        box.rate = 1e6
        begun = clock()
        await check_echo(streams, bytes(100_000))
        assert clock() - begun >= 0.03
        box.rate = None
        await check_echo(streams, bytes(1_000_000))
