"""Who cannot take its bytes waits; the others, and the machine's memory, do not suffer.

All parts are processes of their own, so that their memory can be told apart.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from support.network.applications import (
    application,
    check_echo,
    check_refused,
    client,
    echo,
    exchange,
    mirror,
    noise,
    read_to_the_end,
)
from support.network.ports import free_port
from support.network.sockets import Streams, reset_streams
from support.processes.child import Process
from support.service import ServiceProcess
from support.tunnel import both_processes, both_proxies, disguise, tunnel_of
from support.waiting import HANG
from tailrace.common.addresses import LocalAddress, TCPAddress
from tailrace.wire import Side

MIB = 1024 * 1024
BULK = 200 * MIB
STALLED = 128 * MIB
GROWTH = 64 * MIB
"""What a process may grow by while one connection does not take its bytes."""

_QUIET = 0.5
"""Seconds without progress after which a sender counts as blocked."""


class Flood:
    """Sends blocks that all differ on a raw socket, and remembers what."""

    def __init__(self, sock: socket.socket, size: int) -> None:
        self._sock = sock
        self._size = size
        self.sent = 0
        self.digest = hashlib.sha256()

    async def run(self) -> None:
        """Send everything, or until the other side ends the connection."""
        loop = asyncio.get_running_loop()
        block = bytearray(noise(MIB))
        while self.sent < self._size:
            block[:8] = self.sent.to_bytes(8, "big")
            self.digest.update(block)
            await loop.sock_sendall(self._sock, block)
            self.sent += len(block)

    async def blocked(self) -> None:
        """Wait until nothing more is taken."""
        before = -1
        async with asyncio.timeout(HANG):
            while before != self.sent or not self.sent:
                before = self.sent
                await asyncio.sleep(_QUIET)


async def take(sock: socket.socket, size: int) -> str:
    """Receive ``size`` bytes, the first of them slowly; return their SHA-256 in hex."""
    loop = asyncio.get_running_loop()
    digest = hashlib.sha256()
    room = memoryview(bytearray(MIB))
    got = 0
    while got < size:
        slowly = got < 4 * MIB
        count = await loop.sock_recv_into(sock, room[: 65536 if slowly else MIB])
        assert count, f"the connection ended after {got} bytes"
        digest.update(room[:count])
        got += count
        if slowly:
            await asyncio.sleep(0.001)
    return digest.hexdigest()


@contextmanager
def raw_application() -> Iterator[tuple[socket.socket, LocalAddress]]:
    """A listening socket, and where it is."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening, TCPAddress("127.0.0.1", listening.getsockname()[1])


@asynccontextmanager
async def raw_connection(
    at: LocalAddress, listening: socket.socket
) -> AsyncIterator[tuple[socket.socket, socket.socket]]:
    """Both far ends of one connection through the tunnel: the client's, the application's."""
    assert isinstance(at, TCPAddress)
    loop = asyncio.get_running_loop()
    with socket.socket() as near:
        near.setblocking(False)
        async with asyncio.timeout(HANG):
            await loop.sock_connect(near, (at.host, at.port))
            far, _ = await loop.sock_accept(listening)
        with far:
            yield near, far


@asynccontextmanager
async def bounded_growth(*processes: Process, limit: int = GROWTH) -> AsyncIterator[None]:
    """Watch the memory of processes while the block runs."""
    start = {process: process.memory for process in processes}
    peak = dict(start)

    async def watch() -> None:
        while True:
            for process in processes:
                peak[process] = max(peak[process], process.memory)
            await asyncio.sleep(0.02)

    watcher = asyncio.get_running_loop().create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()
        await asyncio.wait([watcher])
    growth = {process.name: (peak[process] - start[process]) // MIB for process in processes}
    assert max(growth.values()) <= limit // MIB, f"MiB of growth: {growth}"


def ends_of(pair: tuple[socket.socket, socket.socket], way: str) -> tuple[socket.socket, ...]:
    """Return sender and receiver."""
    return pair if way == "up" else pair[::-1]


@pytest.mark.parametrize("way", ["up", "down"])
async def test_a_slow_reader_slows_its_sender_and_loses_nothing(
    service: ServiceProcess, tmp_path: Path, way: str
):
    """Alone in the tunnel it may take as long as it likes, whatever the stall timeout."""
    with tunnel_of(service, "BULK") as tunnel, raw_application() as (listening, where):
        async with (
            both_processes(tmp_path, tunnel, {"BULK": where}, "--stall-timeout", "0.2") as (
                source,
                destination,
                ports,
            ),
            raw_connection(ports["BULK"], listening) as pair,
            bounded_growth(source, destination, service.process),
        ):
            sender, receiver = ends_of(pair, way)
            flood = Flood(sender, BULK)
            async with asyncio.timeout(2 * HANG), asyncio.TaskGroup() as group:
                group.create_task(flood.run())
                await flood.blocked()
                assert flood.sent < BULK // 2
                taken = await take(receiver, BULK)
            assert taken == flood.digest.hexdigest()


async def test_a_stalled_connection_holds_up_nobody_and_loses_nothing(
    service: ServiceProcess, tmp_path: Path
):
    """Both its ends stall for as long as they like, with 64 MiB and more behind each."""
    with tunnel_of(service, "BULK", "ECHO") as tunnel, raw_application() as (listening, where):
        async with (
            application(echo) as other,
            both_processes(
                tmp_path, tunnel, {"BULK": where, "ECHO": other}, "--stall-timeout", "0.5"
            ) as (source, destination, ports),
            client(ports["ECHO"]) as streams,
            raw_connection(ports["BULK"], listening) as (near, far),
            bounded_growth(source, destination, service.process, limit=32 * MIB),
        ):
            up, down = Flood(near, STALLED), Flood(far, STALLED)
            async with asyncio.timeout(2 * HANG), asyncio.TaskGroup() as group:
                for flood in (up, down):
                    group.create_task(flood.run())
                for flood in (up, down):
                    await flood.blocked()
                for _ in range(3):
                    for _ in range(30):
                        await check_echo(streams, noise(64))
                    await asyncio.sleep(0.5)
                for flood in (up, down):
                    assert flood.sent <= STALLED - 64 * MIB
                taken = [group.create_task(take(sock, STALLED)) for sock in (far, near)]
            assert [task.result() for task in taken] == [
                flood.digest.hexdigest() for flood in (up, down)
            ]
            await check_echo(streams, b"after")


@pytest.mark.parametrize("foreign", list(Side))
@pytest.mark.parametrize("way", ["up", "down"])
async def test_a_stalled_connection_of_a_foreign_peer_is_given_up_when_others_wait(
    service: ServiceProcess,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    way: str,
    foreign: Side,
):
    """One that cannot be asked to pause."""
    disguise(monkeypatch, foreign)
    with tunnel_of(service, "BULK", "ECHO") as tunnel, raw_application() as (listening, where):
        services = {"BULK": where}
        async with application(echo) as services["ECHO"]:
            near = tunnel.settings(Side.SOURCE, stall_timeout=1.0)
            far = tunnel.settings(Side.DESTINATION, stall_timeout=1.0, services=services)
            async with (
                both_proxies(near, far) as ends,
                client(ends.listening["ECHO"]) as streams,
                raw_connection(ends.listening["BULK"], listening) as pair,
            ):
                sender, _ = ends_of(pair, way)
                await check_echo(streams, b"before")
                flood = Flood(sender, BULK)
                with pytest.raises(ConnectionError):
                    async with asyncio.timeout(HANG):
                        await flood.run()
                await check_echo(streams, noise(300_000))
                assert "it has taken nothing for 1 s while others waited" in caplog.text
                async with raw_connection(ends.listening["BULK"], listening) as pair:
                    await asyncio.get_running_loop().sock_sendall(pair[0], b"next")
                    assert await take(pair[1], 4) == hashlib.sha256(b"next").hexdigest()


async def test_a_stalled_connection_does_not_hold_up_the_other_direction(
    service: ServiceProcess, tmp_path: Path
):
    """What the application does not take leaves the way back free."""
    with tunnel_of(service, "BULK") as tunnel, raw_application() as (listening, where):
        async with (
            both_processes(tmp_path, tunnel, {"BULK": where}) as (_, _, ports),
            raw_connection(ports["BULK"], listening) as (near, far),
        ):
            loop = asyncio.get_running_loop()
            flood = loop.create_task((up := Flood(near, BULK)).run())
            await up.blocked()
            down = Flood(far, 8 * MIB)
            async with asyncio.timeout(HANG), asyncio.TaskGroup() as group:
                group.create_task(down.run())
                assert await take(near, 8 * MIB) == down.digest.hexdigest()
            flood.cancel()
            await asyncio.wait([flood])


async def test_a_refused_connection_harms_no_other(service: ServiceProcess, tmp_path: Path):
    nobody = TCPAddress("127.0.0.1", free_port())
    with tunnel_of(service, "GOOD", "DEAD") as tunnel:
        async with (
            application(mirror) as where,
            both_processes(tmp_path, tunnel, {"GOOD": where, "DEAD": nobody}) as (
                _,
                destination,
                ports,
            ),
        ):
            for _ in range(3):
                async with asyncio.TaskGroup() as group:
                    group.create_task(exchange(ports["GOOD"], 3_000_000))
                    group.create_task(check_refused(ports["DEAD"]))
            await destination.said(f"Could not connect to destination {nobody} -- Connection ref")


async def test_a_second_connection_that_is_refused_leaves_the_first_one_alone(
    service: ServiceProcess, tmp_path: Path
):
    """The application has stopped listening, and goes on serving the client it has."""
    with tunnel_of(service, "SSH") as tunnel, raw_application() as (listening, where):
        async with (
            both_processes(tmp_path, tunnel, {"SSH": where}) as (_, _, ports),
            raw_connection(ports["SSH"], listening) as (near, far),
        ):
            listening.close()
            await check_refused(ports["SSH"])
            flood = Flood(near, 4 * MIB)
            async with asyncio.timeout(HANG), asyncio.TaskGroup() as group:
                group.create_task(flood.run())
                assert await take(far, 4 * MIB) == flood.digest.hexdigest()


@pytest.mark.parametrize("who", ["client", "application"])
async def test_a_reset_connection_harms_no_other(service: ServiceProcess, tmp_path: Path, who: str):
    accepted: asyncio.Queue[Streams] = asyncio.Queue()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.put_nowait((reader, writer))
        await writer.wait_closed()

    with tunnel_of(service, "GOOD", "BAD") as tunnel:
        async with (
            application(mirror) as good,
            application(hold) as bad,
            both_processes(tmp_path, tunnel, {"GOOD": good, "BAD": bad}) as (_, _, ports),
            asyncio.timeout(HANG),
            asyncio.TaskGroup() as group,
        ):
            group.create_task(exchange(ports["GOOD"], 8_000_000))
            for _ in range(10):
                async with client(ports["BAD"]) as near:
                    near[1].write(noise(100_000))
                    far = await accepted.get()
                    far[1].write(noise(100_000))
                    reset_streams(near if who == "client" else far)
                    await read_to_the_end(far if who == "client" else near)
