from __future__ import annotations

import asyncio
import gc
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from support.network.applications import application, check_echo, client, echo
from support.network.ports import free_port
from support.service.process import ServiceProcess
from support.tunnel import Tunnel as OpenTunnel
from support.tunnel import tunnel_of
from support.waiting import HANG, until
from tailrace.common.addresses import TCPAddress
from tailrace.errors import (
    AccessRefused,
    CertificateRejected,
    ConfigurationError,
    ListenError,
    LocalProtocolError,
    OpenFailed,
    ServiceIdMismatch,
    TailraceError,
    TimedOut,
    TokenRotated,
    TunnelClosed,
)
from tailrace.library import (
    Application,
    Connected,
    Connecting,
    ConnectionClosed,
    ConnectionOpened,
    DestinationTunnel,
    Ended,
    LinkPhase,
    Listening,
    PeerJoined,
    PeerPresence,
    Reconnecting,
    ServicesMapped,
    SourceTunnel,
    Started,
    Tunnel,
    TunnelEvent,
)
from tailrace.wire import Side

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter


def near(tunnel: OpenTunnel, **changes: Any) -> SourceTunnel:
    endpoint = tunnel.endpoints.data_endpoint
    return Tunnel.source(
        tunnel.tokens[Side.SOURCE].reveal(), **({"endpoint": endpoint, "timeout": HANG} | changes)
    )


def far(tunnel: OpenTunnel, services: dict[str, Application], **changes: Any) -> DestinationTunnel:
    endpoint = tunnel.endpoints.data_endpoint
    return Tunnel.destination(
        tunnel.tokens[Side.DESTINATION].reveal(),
        services,
        **({"endpoint": endpoint, "timeout": HANG} | changes),
    )


@asynccontextmanager
async def both(
    service: ServiceProcess, *, resume_timeout: float = 120, **services: Application
) -> AsyncIterator[tuple[SourceTunnel, DestinationTunnel]]:
    """Both ends of a tunnel, which know of each other."""
    changes = {"resume_timeout": resume_timeout}
    with tunnel_of(service, *services) as tunnel:
        async with far(tunnel, services, **changes) as destination, near(tunnel) as source:
            await source.wait_peer(timeout=HANG)
            await destination.wait_peer(timeout=HANG)
            yield source, destination


def drop_link(tunnel: Tunnel) -> None:
    link = tunnel._proxy._uplink.link
    assert link is not None
    link.abort()


def connections(tunnel: Tunnel) -> int:
    return len(tunnel.status().connections)


# -- entering and leaving -------------------------------------------------------------------------


async def test_a_tunnel_can_be_used_as_soon_as_it_is_entered(
    service: ServiceProcess, loop_kind: str
):
    async with both(service, SSH=echo, WEB=echo) as (source, destination):
        assert source.status().service_ids == destination.status().service_ids == ("SSH", "WEB")
        assert source.status().peer is destination.status().peer is PeerPresence.CONNECTED
        assert repr(source) == f"<SourceTunnel at {source.status().link.endpoint}: connected>"
        for name in ("WEB", "SSH"):
            streams = await source.open_connection(name)
            await check_echo(streams, b"hello")
            streams[1].close()
            await streams[1].wait_closed()
    for tunnel in (source, destination):
        assert tunnel.status().link.phase is LinkPhase.ENDED
        await tunnel.wait_closed()
        await tunnel.close()


async def test_it_is_entered_once_and_used_inside(service: ServiceProcess):
    with tunnel_of(service, "SSH") as opened:
        tunnel = near(opened)
        for use in (tunnel.wait_peer(), tunnel.open_connection("SSH"), tunnel.wait_closed()):
            with pytest.raises(LocalProtocolError, match="use async with"):
                await use
        await tunnel.close()
        async with tunnel:
            with pytest.raises(LocalProtocolError, match="entered once"):
                await tunnel.__aenter__()
            assert tunnel.status().link.phase is LinkPhase.CONNECTED
        for use in (tunnel.wait_peer(), tunnel.open_socket("SSH"), tunnel.listen("SSH")):
            with pytest.raises(TunnelClosed, match="the tunnel has ended"):
                await use


async def test_its_client_token_lets_it_in_again(service: ServiceProcess):
    with tunnel_of(service, "SSH") as opened:
        async with near(opened) as first:
            pass
        async with near(opened, client_token=first.client_token) as second:
            assert second.client_token == first.client_token
        with pytest.raises(AccessRefused) as caught:
            async with near(opened):
                raise AssertionError
        assert "takes it as client_token=" in caught.value.advice
        assert first.client_token not in str(caught.value) + caught.value.advice
        with pytest.raises(TunnelClosed):
            await second.open_connection("SSH")


async def test_a_destination_without_an_application_for_a_service(service: ServiceProcess):
    with tunnel_of(service, "SSH", "WEB") as opened:
        with pytest.raises(ServiceIdMismatch) as caught:
            async with far(opened, {"SSH": echo}):
                raise AssertionError
        assert caught.value.advice == "Give an address or a handler for each of SSH, WEB"


async def test_a_certificate_that_is_not_trusted(
    service: ServiceProcess, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("SSL_CERT_FILE")
    with tunnel_of(service, "SSH") as opened:
        with pytest.raises(CertificateRejected) as caught:
            async with near(opened):
                raise AssertionError
        assert caught.value.advice == "Add the CA that signed it with ca="
        assert " -c " not in str(caught.value)
        for ca in (service.endpoints.ca_file, service.endpoints.ca_dir):
            async with near(opened, ca=ca, client_token="c" * 32) as tunnel:
                assert tunnel.status().link.phase is LinkPhase.CONNECTED


async def test_a_service_that_is_not_there_is_given_up_in_time():
    endpoint = f"127.0.0.1:{free_port()}"
    # Enough for a first try on a busy machine.
    tunnel = Tunnel.source("t0ken", endpoint=endpoint, timeout=2.0)
    with pytest.raises(TimedOut, match=f"{endpoint}: .*refused") as caught:
        async with tunnel:
            raise AssertionError
    assert isinstance(caught.value, TimeoutError)
    assert "Check endpoint= or region=" in caught.value.advice
    assert tunnel.status().link.phase is LinkPhase.ENDED


async def test_entering_can_be_cancelled(loop_kind: str):
    tunnel = Tunnel.source("t0ken", endpoint=f"127.0.0.1:{free_port()}")
    entering = asyncio.get_running_loop().create_task(tunnel.__aenter__())
    await until(lambda: tunnel.status().link.phase is LinkPhase.WAITING, "a failure")
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert tunnel.status().link.phase is LinkPhase.ENDED


async def test_leaving_can_be_cancelled_and_ends_all_the_same(service: ServiceProcess):
    async def deaf(reader: Reader, writer: Writer) -> None:
        await asyncio.get_running_loop().create_future()

    async with both(service, SSH=deaf) as (source, destination):
        _, writer = await source.open_connection("SSH")
        writer.write(b"hello")
        await until(lambda: connections(destination) == 1, "the connection")
        closing = asyncio.get_running_loop().create_task(destination.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert destination.status().link.phase is LinkPhase.ENDED
        assert connections(destination) == 0
        writer.close()


async def test_a_second_close_does_not_cut_the_first_short(service: ServiceProcess):
    size = 4 * 1024 * 1024

    async def flood(reader: Reader, writer: Writer) -> None:
        writer.write(bytes(size))
        await writer.drain()

    async with both(service, SSH=flood) as (source, _):
        reader, _ = await source.open_connection("SSH")
        events = source.events()

        def is_full() -> bool:
            return any(local.waiting for local in source._proxy._uplink.traffics[0].connections)

        await until(is_full, "more than the reader takes")
        await asyncio.gather(source.close(), source.close())
        (closed,) = [event async for event in events if isinstance(event, ConnectionClosed)]
        received = 0
        with pytest.raises(ConnectionResetError):
            while True:
                received += len(await reader.read(size))
        assert received == closed.bytes_out


async def test_an_error_in_the_block_is_passed_on(service: ServiceProcess):
    with tunnel_of(service, "SSH") as opened:
        tunnel = near(opened)
        with pytest.raises(ZeroDivisionError):
            async with tunnel:
                raise ZeroDivisionError
        assert tunnel.status().link.phase is LinkPhase.ENDED


async def test_a_bug_below_is_not_swallowed(monkeypatch: pytest.MonkeyPatch):
    tunnel = Tunnel.source("t0ken", endpoint="localhost")

    async def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(tunnel._proxy, "run", fail)
    with pytest.raises(TunnelClosed) as caught:
        async with tunnel:
            raise AssertionError
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        await tunnel.wait_closed()


def test_a_token_does_not_tell_the_tunnel():
    assert Tunnel.source("t0ken", endpoint="localhost").tunnel_id is None


async def test_what_cannot_be_sent_is_no_token():
    with pytest.raises(ConfigurationError, match="control character"):
        Tunnel.source("t0ken\n", endpoint="localhost")


def test_what_is_no_time_to_resume():
    with pytest.raises(ConfigurationError, match="resume_timeout=-1"):
        Tunnel.source("t0ken", endpoint="localhost", resume_timeout=-1)
    with pytest.raises(ConfigurationError, match="resume_timeout=-1"):
        Tunnel.destination("t0ken", {"SSH": 22}, endpoint="localhost", resume_timeout=-1)


@pytest.mark.parametrize("timeout", ["30", float("nan")])
async def test_what_is_no_time_to_wait(service: ServiceProcess, timeout: Any):
    with pytest.raises(ConfigurationError, match="is not a number of seconds"):
        Tunnel.source("t0ken", endpoint="localhost", timeout=timeout)
    with tunnel_of(service, "SSH") as opened:
        async with near(opened) as source:
            with pytest.raises(ConfigurationError, match="is not a number of seconds"):
                await source.wait_peer(timeout)


# -- the peer and the end -------------------------------------------------------------------------


async def test_the_peer_is_waited_for_and_its_absence_is_told(service: ServiceProcess):
    with tunnel_of(service, "SSH") as opened:
        async with near(opened) as source:
            with pytest.raises(TimedOut, match="no destination has connected") as caught:
                await source.wait_peer(timeout=0.01)
            assert caught.value.advice.startswith("Start the destination")
            waiting = [
                asyncio.get_running_loop().create_task(source.wait_peer(HANG)) for _ in range(3)
            ]
            await asyncio.sleep(0)
            waiting[0].cancel()
            async with far(opened, {"SSH": echo}):
                await asyncio.gather(*waiting[1:])
            await until(lambda: source.status().peer is PeerPresence.ABSENT, "its leaving")
            waiting = [asyncio.get_running_loop().create_task(source.wait_peer())]
            await asyncio.sleep(0)
            opened.close()
            with pytest.raises(TunnelClosed):
                await waiting[0]


async def test_a_tunnel_that_is_closed_ends_all_that_waits(service: ServiceProcess):
    with tunnel_of(service, "SSH") as opened:
        async with far(opened, {"SSH": echo}) as destination, near(opened) as source:
            await source.wait_peer(HANG)
            streams = await source.open_connection("SSH")
            await check_echo(streams, b"hello")
            opened.close()
            await asyncio.gather(source.wait_closed(), destination.wait_closed())
            with suppress(ConnectionResetError):
                assert await streams[0].read() == b""
            streams[1].close()
            with pytest.raises(TunnelClosed, match="the tunnel has ended") as caught:
                await source.open_connection("SSH")
            assert "Make another Tunnel" in caught.value.advice


async def test_a_rotated_token_is_told(service: ServiceProcess):
    with tunnel_of(service, "SSH") as opened:
        async with near(opened) as source:
            parameters = {"tunnelId": opened.tunnel_id, "clientMode": "SOURCE"}
            opened.control.call("RotateTunnelAccessToken", parameters)
            with pytest.raises(TokenRotated) as caught:
                await source.wait_closed()
            assert caught.value.advice == "Start again with the new source token"
            with pytest.raises(TunnelClosed, match="rotated") as later:
                await source.open_connection("SSH")
            assert later.value.__cause__ is caught.value


async def test_an_older_peer_has_one_connection_at_a_time(service: ServiceProcess):
    with tunnel_of(service, "SSH") as opened:
        async with far(opened, {"SSH": echo}) as destination, near(opened, dialect="V1") as source:
            await source.wait_peer(HANG)
            first = await source.open_connection("SSH")
            waiting = asyncio.get_running_loop().create_task(source.open_connection("SSH"))
            await check_echo(first, b"hello")
            assert connections(destination) == 1
            assert not waiting.done()
            first[1].close()
            second = await waiting
            await check_echo(second, b"hello")
            second[1].close()


async def test_a_tunnel_goes_on_with_the_token_of_a_rotation(service: ServiceProcess):
    with tunnel_of(service, "SSH") as opened:
        async with (
            far(opened, {"SSH": echo}, renewal_timeout=HANG) as destination,
            near(opened) as source,
        ):
            events = destination.events()
            parameters = {"tunnelId": opened.tunnel_id, "clientMode": "DESTINATION"}
            answer = await asyncio.to_thread(
                opened.control.call, "RotateTunnelAccessToken", parameters
            )
            async for event in events:
                if isinstance(event, Reconnecting):
                    assert isinstance(event.cause, TokenRotated)
                    break
            destination.renew(answer["destinationAccessToken"])
            async for event in events:
                if isinstance(event, Connected):
                    break
            await source.wait_peer(timeout=HANG)
            streams = await source.open_connection("SSH")
            await check_echo(streams, b"hello")
            streams[1].close()
            drop_link(destination)
            async for event in events:
                if isinstance(event, Connected):
                    break
        with pytest.raises(TunnelClosed):
            destination.renew("token")


# -- connections ----------------------------------------------------------------------------------


async def test_the_service_is_named_when_there_is_none(service: ServiceProcess):
    async with both(service, SSH=echo, WEB=echo) as (source, _):
        for use in (source.open_connection("SHH"), source.open_socket("SHH"), source.listen("SHH")):
            with pytest.raises(OpenFailed, match="no service 'SHH'") as caught:
                await use
            assert caught.value.advice == "The services of the tunnel are SSH, WEB"


async def test_a_half_close_leaves_the_answer_its_way(service: ServiceProcess):
    async def digest(reader: Reader, writer: Writer) -> None:
        writer.write(await reader.readexactly(100_000))
        await writer.drain()

    async with both(service, SSH=digest) as (source, _):
        reader, writer = await source.open_connection("SSH")
        writer.write(bytes(100_000))
        writer.write_eof()
        assert await reader.read() == bytes(100_000)
        writer.close()
        loop = asyncio.get_running_loop()
        with await source.open_socket("SSH") as sock:
            await loop.sock_sendall(sock, bytes(100_000))
            sock.shutdown(1)
            received = bytearray()
            while data := await loop.sock_recv(sock, 65_536):
                received += data
            assert received == bytes(100_000)


async def test_a_connection_that_was_cut_is_reset_after_what_had_arrived(service: ServiceProcess):
    async def cut(reader: Reader, writer: Writer) -> None:
        writer.write(b"last words")
        await reader.readline()
        writer.transport.abort()

    for handler in (cut, echo):
        async with both(service, SSH=handler, resume_timeout=0) as (source, _):
            loop = asyncio.get_running_loop()
            reader, writer = await source.open_connection("SSH")
            sock = await source.open_socket("SSH")
            with sock:
                if handler is cut:
                    assert await reader.readexactly(4) == b"last"
                    assert await loop.sock_recv(sock, 4) == b"last"
                    writer.write(b"\n")
                    await loop.sock_sendall(sock, b"\n")
                    assert await reader.readexactly(6) == b" words"
                    assert await loop.sock_recv(sock, 99) == b" words"
                else:
                    drop_link(source)
                with pytest.raises(ConnectionResetError):
                    await reader.read()
                with pytest.raises(ConnectionResetError):
                    await loop.sock_recv(sock, 99)
            writer.close()


async def test_a_thousand_connections_at_the_same_time(service: ServiceProcess, loop_kind: str):
    size = 64 * 1024

    def content(number: int) -> bytes:
        return hashlib.shake_128(number.to_bytes(4, "big")).digest(size)

    async def answer(reader: Reader, writer: Writer) -> None:
        data = await reader.readexactly(size)
        writer.write(data[::-1])
        await writer.drain()

    async with both(service, SSH=answer) as (source, destination):

        async def one(number: int) -> None:
            reader, writer = await source.open_connection("SSH")
            writer.write(content(number))
            await writer.drain()
            assert await reader.read() == content(number)[::-1]
            writer.close()
            await writer.wait_closed()

        async with asyncio.timeout(4 * HANG), asyncio.TaskGroup() as group:
            for number in range(1000):
                group.create_task(one(number))
        for tunnel in (source, destination):
            await until(lambda: connections(tunnel) == 0, "the last to end")  # noqa: B023


async def test_a_reader_that_stops_holds_up_only_its_own(service: ServiceProcess):
    size = 4 * 1024 * 1024

    async def flood(reader: Reader, writer: Writer) -> None:
        writer.write(bytes(size))
        await writer.drain()

    async with both(service, BULK=flood, SSH=echo) as (source, destination):
        stalled, stalled_writer = await source.open_connection("BULK")
        assert await stalled.readexactly(1000) == bytes(1000)

        def is_stuck() -> bool:
            before = sum(each.bytes_in for each in destination.status().connections)
            return 0 < before < size and any(
                each.state.value == "paused" for each in destination.status().connections
            )

        await until(is_stuck, "back-pressure")
        reader, writer = await source.open_connection("BULK")
        assert await reader.readexactly(size) == bytes(size)
        writer.close()
        streams = await source.open_connection("SSH")
        await check_echo(streams, b"hello")
        streams[1].close()
        assert await stalled.readexactly(size - 1000) == bytes(size - 1000)
        assert await stalled.read() == b""
        stalled_writer.close()


async def test_calls_that_are_cancelled_leave_nothing_behind(service: ServiceProcess):
    async with both(service, SSH=echo) as (source, destination):
        loop = asyncio.get_running_loop()
        drop_link(source)
        await until(lambda: source.status().link.phase is not LinkPhase.CONNECTED, "the cut")
        calls = [
            loop.create_task(call)
            for call in (
                source.open_connection("SSH"),
                source.open_socket("SSH"),
                source.wait_peer(),
                source.wait_closed(),
                anext(source.events()),
            )
        ]
        clients = source._proxy._clients
        await until(lambda: len(clients._waiting.get("SSH", ())) == 2, "both to wait")
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        assert all(call.cancelled() for call in calls)
        await source.wait_peer(HANG)
        streams = await source.open_connection("SSH")
        await check_echo(streams, b"hello")
        assert connections(source) == connections(destination) == 1
        streams[1].close()


# -- listeners ------------------------------------------------------------------------------------


async def test_a_listener_lets_clients_in_until_it_is_closed(service: ServiceProcess):
    async with application(echo) as app:
        async with both(service, HTTP=str(app)) as (source, _):
            server = await source.listen("HTTP", "127.0.0.1", 0)
            assert (server.service, server.host) == ("HTTP", "127.0.0.1")
            assert repr(server) == f"<TunnelListener of HTTP at 127.0.0.1:{server.port}>"
            address = TCPAddress(server.host, server.port)
            async with client(address) as streams:
                await check_echo(streams, b"hello")
                server.close()
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection(server.host, server.port)
                await check_echo(streams, b"hello again")
            with await source.listen("HTTP") as second:
                with pytest.raises(ListenError) as caught:
                    await source.listen("HTTP", "127.0.0.1", second.port)
                assert "port 0 picks a free one" in caught.value.advice
            left = await source.listen("HTTP", "localhost")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", left.port)


@pytest.mark.parametrize(
    ("host", "port"),
    [("", 0), ("[::1]", 0), ("a b", 0), ("::1", -1), ("x", 65_536), (None, 0), ("x", "80")],
)
async def test_an_address_that_cannot_be_listened_at(service: ServiceProcess, host: Any, port: Any):
    with tunnel_of(service, "SSH") as opened:
        async with near(opened) as source:
            with pytest.raises(ConfigurationError, match=r"is n(ot|either)"):
                await source.listen("SSH", host, port)


# -- events ---------------------------------------------------------------------------------------


async def test_events_from_before_the_start_to_the_end(service: ServiceProcess):
    with tunnel_of(service, "SSH") as opened:
        source = near(opened)
        events = source.events()
        async with far(opened, {"SSH": echo}), source:
            await source.wait_peer(HANG)
            late = source.events()
            server = await source.listen("SSH")
            _, writer = await source.open_connection("SSH")
            writer.close()
            drop_link(source)
            await until(lambda: source.status().link.phase is LinkPhase.WAITING, "the cut")
            await source.wait_peer(HANG)
        kinds = [type(event) for event in [event async for event in events]]
    assert kinds[:5] == [Started, Connecting, Connected, ServicesMapped, PeerJoined]
    assert kinds[-1] is Ended
    rest: list[TunnelEvent] = [event async for event in late]
    assert rest[0] == Listening("SSH", TCPAddress("127.0.0.1", server.port), True)
    assert [type(event) for event in rest] == kinds[5:]
    assert {ConnectionOpened, ConnectionClosed, Reconnecting} <= set(kinds)
    assert [event async for event in source.events()] == []


async def test_an_iterator_that_was_dropped_is_not_kept(service: ServiceProcess):
    with tunnel_of(service, "SSH") as opened:
        async with near(opened) as source:
            streams = [source.events() for _ in range(3)]
            assert len(source._streams) == 3
            del streams
            gc.collect()
            assert len(source._streams) == 0


def test_the_root_of_all_errors_has_no_advice_of_its_own():
    assert TailraceError("text").advice == ""
