"""The box on the way does what it is told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from support.network.applications import application, check_closed, check_echo, client, echo
from support.network.sockets import Streams, hang_up
from support.waiting import HANG, until
from tailrace.common.addresses import TCPAddress
from tailrace.testing.middlebox import Middlebox


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


async def test_a_black_hole_tells_nobody_of_an_end() -> None:
    ended = asyncio.Event()

    async def wait_for_the_end(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()
        ended.set()

    async with application(wait_for_the_end) as where:
        assert isinstance(where, TCPAddress)
        box = Middlebox(where.host, where.port, "127.0.0.1")
        await box.start()
        async with client(TCPAddress("127.0.0.1", box.port)):
            await until(lambda: box.connected == 1)
            box.swallow()
            assert box.swallows
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await ended.wait()
        box.release()
        assert not box.swallows
        async with asyncio.timeout(HANG):
            await ended.wait()
        await box.stop()


async def test_new_connections_are_refused_and_open_ones_go_on() -> None:
    async with boxed() as (box, streams):
        port = box.port
        box.refuse()
        box.refuse()
        assert box.refuses
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        await check_echo(streams, b"goes on")
        await box.accept()
        await box.accept()
        assert not box.refuses
        assert box.port == port
        async with client(TCPAddress("127.0.0.1", port)) as others:
            await check_echo(others, b"again")
        box.refuse()


async def test_both_directions_share_a_rate_if_they_are_to() -> None:
    """Twice the bytes of one direction take twice as long: a sleep is never too short."""
    async with application(echo) as where:
        assert isinstance(where, TCPAddress)
        box = Middlebox(where.host, where.port, "127.0.0.1", 1e6, each_way=False)
        await box.start()
        async with client(TCPAddress("127.0.0.1", box.port)) as streams:
            clock = asyncio.get_running_loop().time
            begun = clock()
            await check_echo(streams, bytes(200_000))
            assert clock() - begun >= 0.3
        await box.stop()


async def test_an_address_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        box = Middlebox("127.0.0.1", 1, "127.0.0.1")
        with pytest.raises(OSError, match="in use"):
            await box.start(listening.getsockname()[1])
    await box.stop()


async def test_nothing_behind_it_ends_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        nobody = listening.getsockname()
    async with boxed() as (box, streams):
        box.target = nobody
        async with client(TCPAddress("127.0.0.1", box.port)) as others:
            await check_closed(others)
        await check_echo(streams, b"goes on")


async def test_a_closed_road_drops_and_lets_wait() -> None:
    async with boxed() as (box, streams):
        box.close_road()
        await check_closed(streams)
        others = await asyncio.open_connection("127.0.0.1", box.port)
        others[1].write(b"waits")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await others[0].read(1)
        box.open_road()
        async with asyncio.timeout(HANG):
            assert await others[0].readexactly(5) == b"waits"
        await hang_up(others[1])
