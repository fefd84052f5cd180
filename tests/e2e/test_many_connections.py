"""Many connections in one tunnel, at once and one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import resource
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from support.network.applications import (
    Server,
    application,
    check_echo,
    check_refused,
    client,
    echo,
)
from support.network.sockets import Streams, hang_up
from support.service import MessageClient, ServiceProcess, dial
from support.tunnel import ProxyProcess, both_processes, tunnel_of, tunnel_process
from support.waiting import HANG, until
from tailrace.common.addresses import LocalAddress
from tailrace.wire import Message, MessageType, Side

MANY = 1_000
NEEDED = 2 * MANY + 200
"""Descriptors of this process: clients, applications, what pytest holds."""
SHORT_LINGER = ("--linger", "0.2")
"""The connection of a client that has closed is held that long: it might still be reading."""


@pytest.fixture
def _enough_descriptors() -> Iterator[None]:
    """Raise this process' own limit; the proxies raise theirs by themselves."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < NEEDED:
        pytest.skip(f"needs {NEEDED} open files, this system allows {hard} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, NEEDED), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def back_to(descriptors: int, proxy: ProxyProcess) -> None:
    await until(lambda: proxy.descriptors <= descriptors, f"{proxy.name} to close its sockets")


async def connect_all(at: LocalAddress, count: int, stack: AsyncExitStack) -> list[Streams]:
    """Return ``count`` connections, all asked for at the same moment."""

    async def connect() -> Streams:
        return await stack.enter_async_context(client(at))

    async with asyncio.timeout(HANG):
        return await asyncio.gather(*(connect() for _ in range(count)))


@pytest.mark.usefixtures("_enough_descriptors")
async def test_a_thousand_connections_at_once(service: ServiceProcess, tmp_path: Path):
    with tunnel_of(service, "ECHO") as tunnel:
        async with (
            application(echo) as where,
            both_processes(tmp_path, tunnel, {"ECHO": where}, *SHORT_LINGER) as (
                source,
                destination,
                ports,
            ),
        ):
            held = [proxy.descriptors for proxy in (source, destination)]
            async with AsyncExitStack() as stack:
                clients = await connect_all(ports["ECHO"], MANY, stack)
                for turn in range(2):
                    texts = [f"{turn}:{n}:".encode() * (n % 50 + 1) for n in range(MANY)]
                    async with asyncio.TaskGroup() as group:
                        for streams, text in zip(clients, texts, strict=True):
                            group.create_task(check_echo(streams, text))
                assert source.descriptors >= held[0] + MANY
                assert destination.descriptors >= held[1] + MANY
                await asyncio.gather(*(hang_up(writer) for _, writer in clients))
            await back_to(held[0], source)
            await back_to(held[1], destination)
            async with client(ports["ECHO"]) as streams:
                await check_echo(streams, b"one more")


async def test_two_hundred_clients_at_the_same_moment_are_all_served(
    service: ServiceProcess, tmp_path: Path
):
    """Each speaks at once, as browsers do, and goes away again."""

    async def visit(at: LocalAddress, number: int) -> None:
        async with client(at) as streams:
            await check_echo(streams, f"client {number}".encode())

    with tunnel_of(service, "ECHO") as tunnel:
        async with (
            application(echo) as where,
            both_processes(tmp_path, tunnel, {"ECHO": where}) as (_, _, ports),
        ):
            for _ in range(2):
                async with asyncio.TaskGroup() as group:
                    for number in range(200):
                        group.create_task(visit(ports["ECHO"], number))


async def test_connections_one_after_the_other_leave_nothing_behind(
    service: ServiceProcess, tmp_path: Path
):
    with tunnel_of(service, "ECHO") as tunnel:
        async with (
            application(echo) as where,
            both_processes(tmp_path, tunnel, {"ECHO": where}, *SHORT_LINGER) as (
                source,
                destination,
                ports,
            ),
        ):
            proxies = (source, destination)
            descriptors = [proxy.descriptors for proxy in proxies]
            memory: list[list[int]] = []
            for count in (100, 300):
                for number in range(count):
                    async with client(ports["ECHO"]) as streams:
                        await check_echo(streams, str(number).encode())
                for proxy, held in zip(proxies, descriptors, strict=True):
                    await back_to(held, proxy)
                memory.append([proxy.memory for proxy in proxies])
            for before, after in zip(*memory, strict=True):
                assert after - before < 8 * 1024 * 1024


async def test_connections_beyond_the_limit_are_refused_cleanly(
    service: ServiceProcess, tmp_path: Path
):
    with tunnel_of(service, "ECHO") as tunnel:
        async with (
            application(echo) as where,
            both_processes(tmp_path, tunnel, {"ECHO": where}, "--max-connections", "2") as (
                source,
                _,
                ports,
            ),
            client(ports["ECHO"]) as first,
            client(ports["ECHO"]) as second,
        ):
            await check_echo(first, b"first")
            await check_echo(second, b"second")
            await check_refused(ports["ECHO"])
            limit = "the limit of 2 connections is reached"
            await until(lambda: limit in source.log, "the refusal to be logged")
            await check_echo(first, b"first still")
            await check_echo(second, b"second still")


async def test_a_source_that_floods_a_destination_does_not_keep_it_from_ending(
    service: ServiceProcess, tmp_path: Path
):
    """It gets as many connections as the limit says, and none once the destination ends."""
    peak = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal peak
        peak = max(peak, server.connections)
        await reader.read()

    async def flood(source: MessageClient) -> None:
        numbers = itertools.count(1)
        await source.send(Message(MessageType.STREAM_START, 1, "ECHO", next(numbers)))
        with contextlib.suppress(ConnectionClosed):
            while True:
                start = Message(MessageType.CONNECTION_START, 1, "ECHO")
                await source.send(
                    *(start._replace(connection_id=next(numbers)) for _ in range(500))
                )
                # Where nobody is left to take them, the service drops them and sending never waits.
                await asyncio.sleep(0)

    async def listen(source: MessageClient) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await source.recv()

    server = Server(count)
    with tunnel_of(service, "ECHO") as tunnel:
        where = {"ECHO": await server.start()}
        limit = ("--max-connections", "300")
        token = tunnel.tokens[Side.SOURCE].reveal()
        with tunnel_process(tmp_path, tunnel, Side.DESTINATION, where, *limit) as destination:
            await destination.ready()
            async with (
                dial(service.endpoints, "source", token, expect_ids=("ECHO",)) as source,
                asyncio.TaskGroup() as tasks,
            ):
                running = [tasks.create_task(each(source)) for each in (flood, listen)]
                await until(lambda: peak and "limit of 300" in destination.log, "the limit")
                destination.signal(signal.SIGTERM)
                assert await destination.exit_code() == 0
                for task in running:
                    task.cancel()
        assert 0 < peak <= 300
        await server.stop()
