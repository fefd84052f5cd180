from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from support.tunnel import (
    RunningProxy,
    ServiceProcess,
    application,
    both_proxies,
    check_echo,
    client,
    disguise,
    echo,
    noise,
    read_to_the_end,
    tunnel_of,
    until,
    unused_port,
)
from tailrace.flow.receive_buffers import CONNECTION_HIGH, PAUSE_HIGH, TOTAL_HIGH
from tailrace.localproxy.events import ConnectionClosed, ConnectionOpened, ConnectionRefused
from tailrace.localproxy.link_session import LinkSession
from tailrace.localproxy.local_connection import ConnectionState
from tailrace.localproxy.settings import PeerVersion, TCPAddress, UnixAddress
from tailrace.wire import Side


async def test_bytes_are_counted_at_both_ends(service: ServiceProcess):
    with tunnel_of(service, "SSH") as tunnel:
        async with application(echo) as app:
            far = tunnel.settings(Side.DESTINATION, services={"SSH": app})
            async with both_proxies(tunnel.settings(Side.SOURCE, linger=0.1), far) as ends:
                async with client(ends.listening["SSH"]) as streams:
                    await check_echo(streams, b"hello")
                near = await ends.source.seen(ConnectionClosed)
                end = await ends.destination.seen(ConnectionClosed)
    assert (near.bytes_in, near.bytes_out) == (5, 5)
    assert (end.bytes_in, end.bytes_out) == (5, 5)
    assert (near.service_id, near.connection_id) == ("SSH", 1)


async def test_local_sockets_find_out_about_ends_that_have_vanished(
    service: ServiceProcess, loop_kind: str
):
    with tunnel_of(service, "SSH") as tunnel:
        async with application(echo) as app:
            far = tunnel.settings(Side.DESTINATION, services={"SSH": app})
            async with (
                both_proxies(tunnel.settings(Side.SOURCE), far) as ends,
                client(ends.listening["SSH"]) as streams,
            ):
                await check_echo(streams, b"hello")
                near = await ends.source.seen(ConnectionOpened)
                end = await ends.destination.seen(ConnectionOpened)
                host, port = streams[1].get_extra_info("sockname")
                assert near.peer == f"{host}:{port}"
                assert end.peer == str(app)
                for address in (TCPAddress(host, port), app):
                    assert kept_alive(address)
                assert not kept_alive(TCPAddress(host, ends.listening["SSH"].port))


def kept_alive(peer: TCPAddress) -> bool:
    """Tell whether a socket of this process is connected to ``peer`` and probes it."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            sock = socket.socket(fileno=int(name))
            try:
                probes = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                if probes and sock.getpeername()[:2] == (peer.host, peer.port):
                    return True
            finally:
                sock.detach()  # it belongs to somebody
    return False


async def test_an_application_that_refuses_ends_its_connection_alone(service: ServiceProcess):
    with tunnel_of(service, "UP", "DOWN") as tunnel:
        async with application(echo) as app:
            services = {"UP": app, "DOWN": TCPAddress("127.0.0.1", unused_port())}
            far = tunnel.settings(Side.DESTINATION, services=services)
            async with (
                both_proxies(tunnel.settings(Side.SOURCE), far) as ends,
                client(ends.listening["UP"]) as streams,
            ):
                await check_echo(streams, b"before")
                async with client(ends.listening["DOWN"]) as (reader, _):
                    assert await reader.read() == b""
                refused = await ends.destination.seen(ConnectionRefused)
                assert "Connection refused" in refused.reason
                await check_echo(streams, b"after")
                opened = ends.destination.all(ConnectionOpened)
                assert [event.service_id for event in opened] == ["UP"]


async def test_a_client_that_leaves_while_the_application_is_dialed(service: ServiceProcess):
    """The application's backlog is full, so the dial hangs until it is cancelled."""
    with (
        tunnel_of(service, "SSH") as tunnel,
        socket.create_server(("127.0.0.1", 0), backlog=0) as listening,
    ):
        address = TCPAddress(*listening.getsockname())
        fillers = [socket.socket() for _ in range(8)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex((address.host, address.port))
        far = tunnel.settings(Side.DESTINATION, services={"SSH": address})
        async with both_proxies(tunnel.settings(Side.SOURCE, linger=0.1), far) as ends:
            dialing = ends.destination.proxy._tunnel
            assert isinstance(dialing, LinkSession)
            async with client(ends.listening["SSH"]):
                await until(lambda: dialing._dials, "a dial")
            await until(lambda: not dialing._dials and dialing.is_drained, "no dial")
        for filler in fillers:
            filler.close()


async def test_the_tunnel_ending_cancels_dials(service: ServiceProcess):
    with (
        tunnel_of(service, "SSH") as tunnel,
        socket.create_server(("127.0.0.1", 0), backlog=0) as listening,
    ):
        address = TCPAddress(*listening.getsockname())
        fillers = [socket.socket() for _ in range(8)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex((address.host, address.port))
        far = tunnel.settings(Side.DESTINATION, services={"SSH": address})
        async with both_proxies(tunnel.settings(Side.SOURCE), far) as ends:
            dialing = ends.destination.proxy._tunnel
            assert isinstance(dialing, LinkSession)
            async with client(ends.listening["SSH"]) as (_, writer):
                writer.write(b"waits for the dial")
                await until(lambda: any(local.waiting for local in dialing._local.values()), "data")
                ends.destination.proxy.stop()
                ends.destination.proxy.stop()
                await ends.destination.ended()
        for filler in fillers:
            filler.close()


async def test_a_silent_peer_is_named_with_the_flag(
    service: ServiceProcess, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tailrace.localproxy.link_session._SILENT_PEER", 0.1)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    with tunnel_of(service, "SSH") as tunnel:
        async with application(silent) as app:
            far = tunnel.settings(Side.DESTINATION, services={"SSH": app})
            async with (
                both_proxies(tunnel.settings(Side.SOURCE), far) as ends,
                client(ends.listening["SSH"]),
            ):
                await until(lambda: "--destination-client-type V1" in caplog.text, "the hint")


async def test_an_older_peer_is_told_about_once(
    service: ServiceProcess, caplog: pytest.LogCaptureFixture
):
    """A source that says V2 makes the destination answer in V2, which a V3 source follows."""
    caplog.set_level(logging.WARNING)
    with tunnel_of(service, "SSH") as tunnel:
        async with application(echo) as app:
            far = tunnel.settings(Side.DESTINATION, services={"SSH": app})
            near = tunnel.settings(Side.SOURCE)
            async with both_proxies(near, far) as ends:
                source = ends.source.proxy._tunnel
                destination = ends.destination.proxy._tunnel
                assert isinstance(source, LinkSession)
                assert isinstance(destination, LinkSession)
                async with client(ends.listening["SSH"]) as streams:
                    await until(lambda: destination._local, "the connection")
                    for connection in destination._local:
                        connection.drop_number()
                    await check_echo(streams, b"hello")
                    await check_echo(streams, b"again")
    told = [r.getMessage() for r in caplog.records if "speaks V2" in r.getMessage()]
    assert len(told) == 1


async def test_a_half_closed_client_makes_room_for_the_next_of_an_old_peer(
    service: ServiceProcess,
):
    with tunnel_of(service, "SSH") as tunnel:
        async with application(echo) as app:
            near = tunnel.settings(Side.SOURCE, peer_version=PeerVersion.V2, linger=3600.0)
            far = tunnel.settings(Side.DESTINATION, services={"SSH": app})
            async with both_proxies(near, far) as ends:
                async with client(ends.listening["SSH"]) as first:
                    await check_echo(first, b"one")
                async with client(ends.listening["SSH"]) as second:
                    await check_echo(second, b"two")


@asynccontextmanager
async def deaf_application(path: Path) -> AsyncIterator[tuple[socket.socket, UnixAddress]]:
    """A listening unix socket whose clients are accepted by nobody but the test.

    Unlike TCP's, the buffers of unix sockets in the kernel do not grow.
    """
    address = UnixAddress(str(path / "deaf"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(address.path)
        listening.listen(100)
        listening.setblocking(False)
        yield listening, address


def inside(proxy: RunningProxy) -> LinkSession:
    """Return the tunnel of a proxy."""
    tunnel = proxy.proxy._tunnel
    assert isinstance(tunnel, LinkSession)
    return tunnel


def state_of(tunnel: LinkSession, service_id: str) -> ConnectionState | None:
    """Return the state of the first connection of a service, if there is one."""
    states = (local.state for c, local in tunnel._local.items() if c.service_id == service_id)
    return next(states, None)


async def test_an_application_that_takes_nothing_pauses_its_client_and_nobody_else(
    service: ServiceProcess, tmp_path: Path, loop_kind: str
):
    content = noise(8_000_000)
    with tunnel_of(service, "DEAF", "ECHO") as tunnel:
        async with deaf_application(tmp_path) as (listening, deaf), application(echo) as app:
            services = {"DEAF": deaf, "ECHO": app}
            far = tunnel.settings(Side.DESTINATION, services=services, stall_timeout=0.1)
            async with (
                both_proxies(tunnel.settings(Side.SOURCE), far) as ends,
                client(ends.listening["ECHO"]) as other,
                client(ends.listening["DEAF"]) as (_, writer),
            ):
                await check_echo(other, b"before")
                writer.write(content)
                source, destination = inside(ends.source), inside(ends.destination)
                await until(lambda: state_of(source, "DEAF") is ConnectionState.PAUSED, "the pause")
                await asyncio.sleep(0.3)  # it may take as long as it likes
                await check_echo(other, b"meanwhile")
                assert destination._reading
                assert PAUSE_HIGH < destination._inbound.total < len(content)
                loop = asyncio.get_running_loop()
                with (await loop.sock_accept(listening))[0] as sock:
                    taken = bytearray()
                    while len(taken) < len(content):
                        taken += await loop.sock_recv(sock, 1_000_000)
                assert taken == content
                assert state_of(source, "DEAF") is ConnectionState.OPEN
                await until(lambda: destination._inbound.total == 0, "nothing to wait")


async def test_a_client_that_takes_nothing_pauses_its_application_and_nobody_else(
    service: ServiceProcess,
):
    content = noise(32_000_000)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(content)
        await writer.drain()

    with tunnel_of(service, "TALK", "ECHO") as tunnel:
        async with application(talk) as talker, application(echo) as app:
            far = tunnel.settings(Side.DESTINATION, services={"TALK": talker, "ECHO": app})
            async with (
                both_proxies(tunnel.settings(Side.SOURCE, stall_timeout=0.1), far) as ends,
                client(ends.listening["ECHO"]) as other,
                client(ends.listening["TALK"]) as (reader, _),
            ):
                source, destination = inside(ends.source), inside(ends.destination)
                await until(
                    lambda: state_of(destination, "TALK") is ConnectionState.PAUSED, "the pause"
                )
                await check_echo(other, b"meanwhile")
                assert source._reading
                assert await reader.readexactly(len(content)) == content


async def test_a_paused_client_that_has_gone_leaves_everything_it_said(
    service: ServiceProcess, tmp_path: Path
):
    content = noise(4_000_000)
    with tunnel_of(service, "DEAF") as tunnel:
        async with deaf_application(tmp_path) as (listening, deaf):
            far = tunnel.settings(Side.DESTINATION, services={"DEAF": deaf})
            near = tunnel.settings(Side.SOURCE, linger=0.1)
            async with both_proxies(near, far) as ends:
                source = inside(ends.source)
                async with client(ends.listening["DEAF"]) as (_, writer):
                    writer.write(content)
                    await until(
                        lambda: state_of(source, "DEAF") is ConnectionState.PAUSED, "the pause"
                    )
                    await writer.drain()
                loop = asyncio.get_running_loop()
                with (await loop.sock_accept(listening))[0] as sock:
                    taken = bytearray()
                    while data := await loop.sock_recv(sock, 1_000_000):
                        taken += data
                assert taken == content


async def test_many_that_stall_together_are_paused_and_nobody_is_given_up(
    service: ServiceProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Behind them is more than what all together may have waiting."""
    with tunnel_of(service, "DEAF", "ECHO") as tunnel:
        async with (
            deaf_application(tmp_path) as (listening, deaf),
            application(echo) as app,
            AsyncExitStack() as stack,
        ):
            services = {"DEAF": deaf, "ECHO": app}
            far = tunnel.settings(Side.DESTINATION, services=services, stall_timeout=0.2)
            ends = await stack.enter_async_context(both_proxies(tunnel.settings(Side.SOURCE), far))
            other = await stack.enter_async_context(client(ends.listening["ECHO"]))
            destination, source = inside(ends.destination), inside(ends.source)
            count, content = 3, noise(TOTAL_HIGH // 2)
            for _ in range(count):
                stalled = await stack.enter_async_context(client(ends.listening["DEAF"]))
                stalled[1].write(content)
            await until(lambda: paused(source) == count, "all of them to be paused")
            await asyncio.sleep(0.4)  # it may take as long as it likes
            await check_echo(other, b"after")
            assert destination._reading
            assert destination._inbound.total < TOTAL_HIGH
            loop = asyncio.get_running_loop()
            for _ in range(count):
                with (await loop.sock_accept(listening))[0] as sock:
                    taken = bytearray()
                    while len(taken) < len(content):
                        taken += await loop.sock_recv(sock, 1_000_000)
                assert taken == content
    assert "has taken nothing" not in caplog.text


def paused(tunnel: LinkSession) -> int:
    """Return how many local connections are paused."""
    return sum(local.state is ConnectionState.PAUSED for local in tunnel._local.values())


@pytest.mark.parametrize("foreign", list(Side))
async def test_an_application_that_takes_nothing_stops_the_link_of_a_foreign_peer(
    service: ServiceProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, foreign: Side
):
    """Whether the other proxy is not ours or this one does not look like it."""
    disguise(monkeypatch, foreign)
    content = noise(8_000_000)
    with tunnel_of(service, "SSH") as tunnel:
        async with deaf_application(tmp_path) as (listening, app):
            far = tunnel.settings(Side.DESTINATION, services={"SSH": app}, stall_timeout=0.1)
            async with (
                both_proxies(tunnel.settings(Side.SOURCE), far) as ends,
                client(ends.listening["SSH"]) as (_, writer),
            ):
                writer.write(content)
                destination = ends.destination.proxy._tunnel
                assert isinstance(destination, LinkSession)
                await until(lambda: not destination._reading, "the link to stop")
                waiting = destination._inbound.total
                assert CONNECTION_HIGH < waiting < len(content)
                await asyncio.sleep(0.3)  # alone, it may take as long as it likes
                loop = asyncio.get_running_loop()
                with (await loop.sock_accept(listening))[0] as sock:
                    taken = bytearray()
                    while len(taken) < len(content):
                        taken += await loop.sock_recv(sock, 1_000_000)
                assert taken == content
                await until(lambda: destination._reading, "the link to go on")
                assert destination._inbound.total == 0


async def test_the_one_that_stalls_is_given_up_when_there_are_others(
    service: ServiceProcess,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    disguise(monkeypatch, Side.SOURCE)
    with tunnel_of(service, "DEAF", "ECHO") as tunnel:
        async with deaf_application(tmp_path) as (_, deaf), application(echo) as app:
            services = {"DEAF": deaf, "ECHO": app}
            far = tunnel.settings(Side.DESTINATION, services=services, stall_timeout=0.2)
            async with (
                both_proxies(tunnel.settings(Side.SOURCE), far) as ends,
                client(ends.listening["DEAF"]) as stalled,
                client(ends.listening["ECHO"]) as other,
            ):
                await check_echo(other, b"before")
                stalled[1].write(noise(8_000_000))
                await read_to_the_end(stalled)
                await check_echo(other, b"after")
    assert "deaf: reset: it has taken nothing for 0.2 s while others waited" in caplog.text


async def test_those_that_stall_together_are_given_up_until_the_rest_can_go_on(
    service: ServiceProcess,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    """None of them is over its own mark."""
    disguise(monkeypatch, Side.SOURCE)
    count = 2 * TOTAL_HIGH // CONNECTION_HIGH
    with tunnel_of(service, "DEAF", "ECHO") as tunnel:
        async with (
            deaf_application(tmp_path) as (_, deaf),
            application(echo) as app,
            AsyncExitStack() as stack,
        ):
            services = {"DEAF": deaf, "ECHO": app}
            far = tunnel.settings(Side.DESTINATION, services=services, stall_timeout=0.2)
            ends = await stack.enter_async_context(both_proxies(tunnel.settings(Side.SOURCE), far))
            other = await stack.enter_async_context(client(ends.listening["ECHO"]))
            await check_echo(other, b"before")
            for _ in range(count):
                stalled = await stack.enter_async_context(client(ends.listening["DEAF"]))
                stalled[1].write(bytes(CONNECTION_HIGH))
            await until(lambda: "has taken nothing" in caplog.text, "the first reset")
            await check_echo(other, b"after")
    resets = [r for r in caplog.records if "has taken nothing" in r.getMessage()]
    assert 0 < len(resets) < count
