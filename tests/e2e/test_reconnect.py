"""What breaks a link, what ends a tunnel, and what its connections learn of it."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.network.applications import (
    application,
    check_closed,
    check_echo,
    client,
    echo,
    exchange,
    mirror,
    noise,
    read_to_the_end,
)
from support.network.sockets import Streams
from support.service import ServiceProcess, service_process
from support.tunnel import Ends, Tunnel, both_processes, both_proxies, running_proxy, tunnel_of
from support.waiting import HANG, until
from tailrace.cli.exit_codes import ExitCode
from tailrace.common.addresses import LocalAddress, TCPAddress
from tailrace.common.secret import Secret
from tailrace.errors import LinkError
from tailrace.localproxy.events import Connected, Ended, Reconnecting
from tailrace.localproxy.settings import Backend, PeerVersion
from tailrace.testing.middlebox import Middlebox, middlebox
from tailrace.wire import Side

each_end = pytest.mark.parametrize("side", Side, ids=lambda side: side.value)
each_backend = pytest.mark.parametrize(
    "backend", [Backend.PICOWS, Backend.WEBSOCKETS], ids=lambda backend: backend.value
)


class Listener:
    """An echo that also keeps what connected to it."""

    def __init__(self) -> None:
        self.accepted: asyncio.Queue[Streams] = asyncio.Queue()
        self.ended = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted.put_nowait((reader, writer))
        try:
            await echo(reader, writer)
        finally:
            self.ended += 1


@dataclass(frozen=True)
class Rig:
    """A tunnel with a box in front of one end, and an echo behind it."""

    tunnel: Tunnel
    box: Middlebox
    ends: Ends
    listener: Listener

    @property
    def port(self) -> LocalAddress:
        return self.ends.listening["SSH"]


@asynccontextmanager
async def rig_of(
    service: ServiceProcess, side: Side, backend: Backend = Backend.AUTO, **source: PeerVersion
) -> AsyncIterator[Rig]:
    """A tunnel whose connections end with their link."""
    listener = Listener()
    with tunnel_of(service, "SSH") as tunnel:
        async with application(listener) as where:
            both = {"backend": backend, "resume_timeout": 0.0}
            settings = {
                Side.SOURCE: tunnel.settings(Side.SOURCE, **both, **source),
                Side.DESTINATION: tunnel.settings(
                    Side.DESTINATION, services={"SSH": where}, **both
                ),
            }
            async with middlebox(settings[side]) as box:
                settings[side] = box.behind(settings[side])
                async with both_proxies(settings[Side.SOURCE], settings[Side.DESTINATION]) as ends:
                    yield Rig(tunnel, box, ends, listener)


@pytest.mark.pairwise
@each_end
@each_backend
async def test_a_dropped_link_comes_back(
    service: ServiceProcess, loop_kind: str, side: Side, backend: Backend
):
    """Both local ends learn that the connection is over; ports and tokens stay good."""
    async with rig_of(service, side, backend) as rig:
        proxy = rig.ends.source if side is Side.SOURCE else rig.ends.destination
        for drops in (1, 2):
            async with client(rig.port) as streams:
                await check_echo(streams, b"before the drop")
                rig.box.cut()
                await check_closed(streams)
            await until(lambda drops=drops: rig.listener.ended == drops, "end of the application")
            await proxy.ready(links=drops + 1)
            assert rig.box.passed == drops + 1
            assert len(proxy.all(Reconnecting)) == drops
        async with client(rig.port) as streams:
            await check_echo(streams, b"after the drop")
        assert rig.port == (await rig.ends.source.ready())["SSH"]


@pytest.mark.pairwise
@each_end
@each_backend
async def test_a_link_dropped_under_load_comes_back(
    service: ServiceProcess, loop_kind: str, side: Side, backend: Backend
):
    async with rig_of(service, side, backend) as rig:
        proxy = rig.ends.source if side is Side.SOURCE else rig.ends.destination
        async with client(rig.port) as streams, client(rig.port) as idle:
            await check_echo(idle, b"idle")
            streams[1].write(noise(20_000_000))
            await streams[0].readexactly(1_000_000)
            rig.box.cut()
            await read_to_the_end(streams)
            await check_closed(idle)
        await proxy.ready(links=2)
        async with client(rig.port) as streams:
            await check_echo(streams, noise(500_000))


async def test_clients_wait_while_the_link_is_down(service: ServiceProcess):
    async with rig_of(service, Side.SOURCE) as rig:
        rig.box.close_road()
        await rig.ends.source.seen(Reconnecting)
        async with client(rig.port) as streams:
            streams[1].write(b"early")
            rig.box.open_road()
            async with asyncio.timeout(HANG):
                assert await streams[0].readexactly(5) == b"early"


@pytest.mark.parametrize("version", [PeerVersion.V1, PeerVersion.V2])
async def test_a_client_that_waits_for_an_old_peer_is_served_after_a_drop(
    service: ServiceProcess, version: PeerVersion
):
    async with (
        rig_of(service, Side.SOURCE, peer_version=version) as rig,
        client(rig.port) as first,
        client(rig.port) as second,
    ):
        await check_echo(first, b"first")
        second[1].write(b"second")
        rig.box.cut()
        await check_closed(first)
        async with asyncio.timeout(HANG):
            assert await second[0].readexactly(6) == b"second"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
async def test_a_restarted_service_is_found_again(tmp_path: Path, number: signal.Signals):
    """Its tunnels and tokens outlive it, however it ends."""
    with service_process(tmp_path) as service, tunnel_of(service, "SSH") as tunnel:
        async with (
            application(mirror) as where,
            both_proxies(
                tunnel.settings(Side.SOURCE),
                tunnel.settings(Side.DESTINATION, services={"SSH": where}),
            ) as ends,
        ):
            await exchange(ends.listening["SSH"], 100_000)
            await asyncio.to_thread(service.restart, number)
            await ends.destination.ready(links=2)
            assert await ends.source.ready(links=2) == ends.listening
            await exchange(ends.listening["SSH"], 100_000)


async def test_both_ends_stop_when_the_tunnel_is_closed(service: ServiceProcess, tmp_path: Path):
    with tunnel_of(service, "SSH") as tunnel:
        async with (
            application(echo) as where,
            both_processes(tmp_path, tunnel, {"SSH": where}) as (source, destination, ports),
            client(ports["SSH"]) as streams,
        ):
            await check_echo(streams, b"open")
            await asyncio.to_thread(tunnel.close)
            await check_closed(streams)
            for proxy in (source, destination):
                assert await proxy.exit_code() == ExitCode.OK
                assert "Web socket close received. Code: 1000; Reason: " in proxy.log
                assert not any(word in proxy.log for word in ("[error]", "[fatal]"))
                assert not proxy.ready_file.exists()


def receive(sock: socket.socket, size: int) -> bytes:
    """Return exactly so many bytes, blocking."""
    sock.settimeout(HANG)
    received = b""
    while len(received) < size and (data := sock.recv(size - len(received))):
        received += data
    return received


async def test_closing_the_tunnel_delivers_what_was_received(service: ServiceProcess):
    """The client reads slowly; the tunnel is closed behind the last byte."""
    content = noise(3_000_000)
    sent = asyncio.Event()

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(content)
        await writer.drain()
        sent.set()
        await reader.read()

    with tunnel_of(service, "SSH") as tunnel:
        async with (
            application(send) as where,
            both_proxies(
                tunnel.settings(Side.SOURCE),
                tunnel.settings(Side.DESTINATION, services={"SSH": where}),
            ) as ends,
        ):
            where = ends.listening["SSH"]
            assert isinstance(where, TCPAddress)
            # Not asyncio's streams: they forget what they have when a reset comes.
            with socket.create_connection((where.host, where.port)) as sock:
                head = await asyncio.to_thread(receive, sock, len(content) - 100_000)
                await asyncio.to_thread(tunnel.close)
                assert head + await asyncio.to_thread(receive, sock, 100_000) == content
                with pytest.raises(ConnectionResetError):
                    await asyncio.to_thread(sock.recv, 1)
            assert await ends.source.ended() is ExitCode.OK
            assert await ends.destination.ended() is ExitCode.OK


@each_end
async def test_sigterm_resets_the_connections_of_the_peer(
    service: ServiceProcess, tmp_path: Path, side: Side
):
    listener = Listener()
    with tunnel_of(service, "SSH") as tunnel:
        async with (
            application(listener) as where,
            both_processes(tmp_path, tunnel, {"SSH": where}) as (source, destination, ports),
            client(ports["SSH"]) as streams,
        ):
            await check_echo(streams, b"open")
            ending, staying = (
                (source, destination) if side is Side.SOURCE else (destination, source)
            )
            ending.terminate()
            assert await ending.exit_code() == ExitCode.OK
            await check_closed(streams)
            await until(lambda: listener.ended == 1, "end of the application")
            assert staying.running
            assert "the link was closed" not in staying.log


async def test_a_second_signal_waits_for_nobody(service: ServiceProcess, tmp_path: Path):
    """The first one leaves a client time to take what was received for it."""

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(bytes(100_000))
            await writer.drain()

    with tunnel_of(service, "SSH") as tunnel:
        async with (
            application(flood) as where,
            both_processes(tmp_path, tunnel, {"SSH": where}) as (source, _, ports),
            client(ports["SSH"]) as (reader, writer),
        ):
            await reader.readexactly(1_000_000)
            writer.transport.pause_reading()
            for _ in range(2):
                await asyncio.sleep(0.5)
                source.signal(signal.SIGINT)
            assert await source.exit_code() == ExitCode.OK
            assert "did not take their last bytes" not in source.log


async def test_a_newer_connection_takes_the_place_of_an_older_one(service: ServiceProcess):
    """The same tokens again, from elsewhere; the other end learns that its streams are over."""
    client_token = Secret("c" * 32)
    with tunnel_of(service, "SSH") as tunnel:
        async with (
            application(mirror) as where,
            running_proxy(tunnel.settings(Side.SOURCE)) as source,
        ):
            ports = await source.ready()
            destination = tunnel.settings(
                Side.DESTINATION,
                services={"SSH": where},
                client_token=client_token,
                connect_retry_count=0,
            )
            async with running_proxy(destination) as older:
                await older.ready()
                async with client(ports["SSH"]) as streams:
                    streams[1].write(b"half a head")
                    async with running_proxy(destination) as newer:
                        await newer.ready()
                        await check_closed(streams)
                        with pytest.raises(LinkError, match=r"1008.*replaced by a newer"):
                            await older.ended()
                        await exchange(ports["SSH"], 100_000)
                        assert len(source.all(Connected)) == 1
                        assert await newer.stop() is ExitCode.OK
            assert await source.stop() is ExitCode.OK
            assert len(source.all(Ended)) == 1
