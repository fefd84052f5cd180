"""A load tells what happens to its bytes and connections."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from soak.figures import Figures
from soak.load import Lane, Load, Volume

from support.network.applications import application, client
from support.waiting import HANG, until
from tailrace.common.addresses import TCPAddress
from tailrace.testing.middlebox import Middlebox

QUICK = Volume(bulk=50_000, pause=0.01, clients=1)


@asynccontextmanager
async def running(way: Callable[[int], int | None]) -> AsyncIterator[tuple[Lane, Figures]]:
    """A load whose clients connect where ``way`` leads from the application's port."""
    lane, figures = Lane(0), Figures()
    load = Load(lane, figures, random.Random(1), itertools.count(1).__next__)
    lane.port = way(await load.start())
    clients = [asyncio.get_running_loop().create_task(load.run_client(QUICK)) for _ in range(3)]
    try:
        yield lane, figures
    finally:
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        await load.stop()


@asynccontextmanager
async def boxed() -> AsyncIterator[tuple[Lane, Figures, Middlebox]]:
    """A load through a box."""
    box: Middlebox | None = None
    async with running(lambda _: None) as (lane, figures):
        # The application's port is known only now.
        port = lane.app
        box = Middlebox("127.0.0.1", port, "127.0.0.1")
        await box.start()
        try:
            lane.port = box.port
            yield lane, figures, box
        finally:
            await box.stop()


async def test_without_faults_everything_completes() -> None:
    async with running(lambda port: port) as (_, figures):
        await until(lambda: len(figures.opened) == 5, "all kinds of load")
        await until(lambda: figures.ended["complete"] > 20, "connections")
    assert not figures.failures, figures.stories
    assert set(figures.ended) == {"complete"}
    assert figures.bytes_up
    assert figures.bytes_down


@pytest.mark.parametrize("restless", [True, False])
async def test_early_ends_need_a_reason(restless: bool) -> None:
    async with boxed() as (lane, figures, box):
        outcome = figures.ended if restless else figures.failures
        name = "cut by a fault" if restless else "cut without a fault"
        async with asyncio.timeout(HANG):
            while not outcome[name]:
                if restless:
                    lane.disturb()
                box.cut()
                await asyncio.sleep(0.01)
        assert set(figures.failures) <= {name}


@pytest.mark.parametrize("interrupted", [True, False])
async def test_refusals_need_a_moment_without_a_link(interrupted: bool) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with application(refuse) as where:
        assert isinstance(where, TCPAddress)
        async with running(lambda _: where.port) as (lane, figures):
            outcome = figures.ended if interrupted else figures.failures
            name = "refused" if interrupted else "cut without a fault"
            async with asyncio.timeout(HANG):
                while not outcome[name]:
                    if interrupted:
                        lane.interrupt()
                    await asyncio.sleep(0.01)
            assert set(figures.failures) <= {name}
            assert set(figures.ended) <= {name}


async def test_foreign_bytes_are_found() -> None:
    async def stranger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(100_000))
        await writer.drain()
        await reader.read()

    async with application(stranger) as where:
        assert isinstance(where, TCPAddress)
        async with running(lambda _: where.port) as (lane, figures):
            lane.disturb()
            await until(lambda: figures.failures["wrong bytes"], "a wrong byte")


async def test_a_stranger_at_the_application_is_found() -> None:
    async with running(lambda _: None) as (lane, figures):
        async with client(TCPAddress("127.0.0.1", lane.app)) as (_, writer):
            writer.write(bytes(100))
            await until(lambda: figures.failures["wrong bytes"], "a wrong byte")
