from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket

import pytest

from support.network.applications import application, check_echo, client, echo
from support.plugins.clock import ClockLoop
from support.service.process import ServiceProcess
from support.tunnel import both_proxies, tunnel_of
from support.tunnel.engine import Ready, data_message, pass_time, settings, turn
from tailrace.common.addresses import TCPAddress
from tailrace.flow.receive_buffers import CONNECTION_HIGH
from tailrace.localproxy.connection_states import ConnectionState
from tailrace.localproxy.events import (
    ConnectionClosed,
    ConnectionOpened,
    ConnectionRefused,
    PeerSilent,
)
from tailrace.localproxy.settings import PeerVersion
from tailrace.wire import Message, MessageType, Side, encode_delimited

STREAM_START = MessageType.STREAM_START
CONNECTION_START = MessageType.CONNECTION_START
CONNECTION_RESET = MessageType.CONNECTION_RESET
STREAM_RESET = MessageType.STREAM_RESET

# -- step by step --------------------------------------------------------------------------------


@pytest.fixture
def source(loop: ClockLoop) -> Ready:
    return Ready(loop, settings())


def ended(number: int, kind: int = CONNECTION_RESET) -> memoryview:
    return memoryview(encode_delimited(Message(kind, 1, "SSH", number)))


def states(rig: Ready) -> list[ConnectionState]:
    return [local.state for local in rig.table]


def test_a_client_that_comes_gets_a_connection(source: Ready):
    end = source.come("127.0.0.1:9")
    assert source.events == [ConnectionOpened("SSH", 1, "127.0.0.1:9")]
    assert source.link.control == [(STREAM_START, 1)]
    assert states(source) == [ConnectionState.OPEN]
    end.say(b"hello")
    assert source.link.data == b"hello"
    source.come("127.0.0.1:10")
    assert source.link.control == [(STREAM_START, 1), (CONNECTION_START, 2)]


def test_the_end_in_the_tunnel_lets_a_connection_drain(source: Ready):
    end = source.come()
    source.table.paused(next(iter(source.table)).connection)
    source.link_session.frame_received(data_message(b"last words"))
    source.link_session.frame_received(ended(1))
    assert end.taken == b"last words"
    assert states(source) == [ConnectionState.CLOSING]
    assert source.table.is_flushed
    assert not source.table.is_drained
    assert source.events[1:] == []
    end.say(b"")
    assert source.table.is_drained
    assert source.events[1:] == [ConnectionClosed("SSH", 1, "client", 0, 10)]
    assert end.closed


def test_an_end_that_comes_from_here_resets_and_is_told_once(source: Ready):
    end = source.come()
    end.say(b"hello")
    end.fail()
    assert source.link.control[1:] == [(CONNECTION_RESET, 1)]
    assert source.events[1:] == [ConnectionClosed("SSH", 1, "client", 5, 0)]
    assert source.table.is_drained
    source.link_session.frame_received(ended(1))  # crossed ours
    assert len(source.events) == 2


def test_what_the_session_says_about_others_is_none_of_its_business(source: Ready):
    source.come()
    connection = next(iter(source.table)).connection
    source.link_session.frame_received(ended(1))
    for said in (source.table.paused, source.table.resumed):
        said(connection)
    source.table.ended(connection, "again", "")
    assert states(source) == [ConnectionState.CLOSING]


def test_pauses_are_passed_on(source: Ready, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    end = source.come()
    connection = next(iter(source.table)).connection
    source.table.paused(connection)
    assert states(source) == [ConnectionState.PAUSED]
    source.table.resumed(connection)
    assert states(source) == [ConnectionState.OPEN]
    source.link_session.frame_received(ended(1))
    end.say(b"")
    assert [r.getMessage() for r in caplog.records] == [
        "client: paused by the peer",
        "client: resumed by the peer",
        "client: the peer closed the connection",
    ]


def test_flushed_is_not_drained(source: Ready, loop: ClockLoop):
    ends = [source.come() for _ in range(2)]
    for end in ends:
        end.room = 0
    source.link_session.frame_received(data_message(b"last words"))
    flushed, drained = (
        loop.create_task(wait)
        for wait in (source.table.wait_flushed(), source.table.wait_drained())
    )
    turn(loop)
    source.link_session.frame_received(ended(2))
    source.link_session.frame_received(ended(1))
    assert states(source).count(ConnectionState.FLUSHING) == 1
    turn(loop)
    assert not flushed.done()
    ends[0].take()
    turn(loop)
    assert flushed.done()
    assert not drained.done()
    ends[0].say(b"")
    turn(loop)
    assert not drained.done()
    ends[1].say(b"")
    turn(loop)
    assert drained.done()


def test_what_is_not_acknowledged_is_not_flushed(source: Ready, loop: ClockLoop):
    """A reset would destroy it, so that it is waited for at the end of the proxy, too."""
    end = source.come()
    end.in_flight = 10
    source.link_session.frame_received(data_message(b"last words"))
    flushed = loop.create_task(source.table.wait_flushed())
    source.table.reset_all("it was stopped")
    assert states(source) == [ConnectionState.RESETTING]
    pass_time(loop, 1.0)
    assert not flushed.done()
    end.in_flight = 0
    pass_time(loop, 1.0)
    assert flushed.done()
    assert source.table.is_drained
    assert end.was_reset


def test_one_that_gives_up_waiting_leaves_the_others_waiting(source: Ready, loop: ClockLoop):
    end = source.come()
    impatient, patient = (loop.create_task(source.table.wait_drained()) for _ in range(2))
    turn(loop)
    impatient.cancel()
    turn(loop)
    source.table.reset_all("it was stopped")
    end.say(b"")
    turn(loop, 2)
    assert impatient.cancelled()
    assert patient.done()


def test_an_empty_table_is_drained(source: Ready, loop: ClockLoop):
    assert source.table.is_flushed
    loop.run_until_complete(source.table.wait_flushed())
    loop.run_until_complete(source.table.wait_drained())
    source.table.reset_all("it was stopped")
    source.table.abort()
    assert source.events == []


def test_reset_all_ends_in_order_of_age_and_abort_at_once(source: Ready):
    ends = [source.come() for _ in range(3)]
    ends[0].say(b"")
    source.table.reset_all("it was stopped")
    assert source.link.control[3:] == [(CONNECTION_RESET, number) for number in (1, 2, 3)]
    assert all(end.was_reset and not end.shut for end in ends)
    assert [end.reset_reason for end in ends] == ["it was stopped"] * 3
    ends = [source.come(), source.come()]
    source.link_session.frame_received(ended(5))
    source.table.abort()
    assert all(end.closed for end in ends)
    assert [end.was_reset for end in ends] == [True, False]
    assert source.table.is_drained
    assert len([event for event in source.events if isinstance(event, ConnectionClosed)]) == 5


def test_a_reset_that_leads_to_the_end_of_everything(source: Ready):
    """A subscriber may stop the proxy for good while it is being told of an end."""
    ends = [source.come() for _ in range(2)]
    source.on_event = lambda event: (
        source.table.abort() if isinstance(event, ConnectionClosed) else None
    )
    source.table.reset_all("it was stopped")
    assert source.table.is_drained
    assert all(end.closed for end in ends)


@pytest.mark.parametrize("limit", [0, 2])
def test_a_source_refuses_clients_beyond_the_limit(loop: ClockLoop, limit: int):
    source = Ready(loop, settings(max_connections=limit))
    ends = [source.come() for _ in range(3)]
    reason = "the limit of 2 connections is reached"
    refused = [ConnectionRefused("SSH", 0, reason)] if limit else []
    assert [e for e in source.events if isinstance(e, ConnectionRefused)] == refused
    assert ends[2].closed is bool(limit)
    assert [end.closed for end in ends[:2]] == [False, False]
    ends[0].fail()
    assert not source.come().closed


@pytest.mark.parametrize("limit", [0, 2])
def test_a_destination_refuses_connections_beyond_the_limit(loop: ClockLoop, limit: int):
    async def handler(*_: object) -> None:
        await asyncio.sleep(3600.0)

    far = Ready(loop, settings(Side.DESTINATION, max_connections=limit), services={"SSH": handler})
    for number, kind in enumerate([STREAM_START, CONNECTION_START, CONNECTION_START], 1):
        far.link_session.frame_received(ended(number, kind))
    refused = ConnectionRefused("SSH", 3, "the limit of 2 connections is reached")
    assert (refused in far.events) is bool(limit)
    assert ((CONNECTION_RESET, 3) in far.link.control) is bool(limit)
    assert len(list(far.table)) == (2 if limit else 3)
    far.close()


def test_one_that_holds_up_the_others_is_reset(
    source: Ready, loop: ClockLoop, caplog: pytest.LogCaptureFixture
):
    stalled, other = source.come(), source.come()
    stalled.room = 0
    frame = bytes(64_512)
    for _ in range(CONNECTION_HIGH // len(frame) + 1):
        source.link_session.frame_received(data_message(frame))
    assert not source.link.reading
    pass_time(loop, 37.5)
    assert source.link.reading
    assert stalled.closed
    assert not other.closed
    assert source.link.control[2:] == [(CONNECTION_RESET, 1)]
    lost = (CONNECTION_HIGH // len(frame) + 1) * len(frame)
    assert (
        f"client: reset: it has taken nothing for 30 s while others waited; {lost} bytes lost"
        in caplog.text
    )
    source.close()


def test_one_that_is_alone_is_not_reset_but_one_that_drains_is_another(
    source: Ready, loop: ClockLoop
):
    stalled = source.come()
    stalled.room = 0
    frame = bytes(64_512)
    for _ in range(CONNECTION_HIGH // len(frame) + 1):
        source.link_session.frame_received(data_message(frame))
    pass_time(loop, 100.0)
    assert not stalled.closed
    source.come().say(b"")
    pass_time(loop, 7.5)
    assert stalled.closed
    source.close()


# -- V1 and V2: one connection at a time ---------------------------------------------------------


@pytest.fixture
def old(loop: ClockLoop) -> Ready:
    return Ready(loop, settings(peer_version=PeerVersion.V2))


def opened(rig: Ready) -> list[str]:
    return [event.peer for event in rig.events if isinstance(event, ConnectionOpened)]


def test_a_second_client_of_an_old_peer_waits_for_the_end_of_the_first(old: Ready):
    first, _, _ = (old.come(name) for name in ("one", "two", "three"))
    assert opened(old) == ["one"]
    assert old.link.control == [(STREAM_START, 0)]
    first.fail()
    assert opened(old) == ["one", "two"]
    assert old.link.control[1:] == [(STREAM_RESET, 0), (STREAM_START, 0)]
    # The next one is there before the former is told to be closed.
    assert isinstance(old.events[1], ConnectionOpened)
    assert isinstance(old.events[2], ConnectionClosed)
    old.link_session.frame_received(memoryview(encode_delimited(Message(STREAM_RESET, 2, "SSH"))))
    assert opened(old) == ["one", "two", "three"]


def test_a_half_closed_client_makes_room(old: Ready):
    first = old.come("one")
    first.say(b"")
    assert states(old) == [ConnectionState.HALF_CLOSED]
    old.come("two")
    assert opened(old) == ["one", "two"]


def test_a_client_that_half_closes_makes_room_for_one_that_waits(old: Ready):
    first = old.come("one")
    old.come("two")
    first.say(b"")
    assert opened(old) == ["one", "two"]


def test_a_half_closed_client_that_gets_its_answer_does_not(old: Ready, loop: ClockLoop):
    first = old.come("one")
    first.say(b"")
    old.link_session.frame_received(data_message(b"answer", connection_id=0))
    old.come("two")
    assert opened(old) == ["one"]
    pass_time(loop, 5.1)
    assert opened(old) == ["one", "two"]


def test_clients_of_another_service_are_not_disturbed(loop: ClockLoop):
    old = Ready(loop, settings(peer_version=PeerVersion.V2), ids=("SSH", "WEB"))
    other = old.come("other", "WEB")
    other.say(b"")
    old.come("one")
    old.come("two")
    assert opened(old) == ["other", "one"]
    assert states(old) == [ConnectionState.HALF_CLOSED, ConnectionState.OPEN]


def test_a_stalled_one_that_is_given_up_makes_room(loop: ClockLoop):
    old = Ready(loop, settings(peer_version=PeerVersion.V2), ids=("SSH", "WEB"))
    old.come("one").room = 0
    old.come("other", "WEB")
    old.come("two")
    frame = bytes(64_512)
    for _ in range(CONNECTION_HIGH // len(frame) + 1):
        old.link_session.frame_received(data_message(frame, connection_id=0))
    pass_time(loop, 37.5)
    assert opened(old) == ["one", "other", "two"]
    old.close()


# -- silence -------------------------------------------------------------------------------------


def test_a_peer_that_answers_nothing_is_reported_once(source: Ready, loop: ClockLoop):
    source.come()
    pass_time(loop, 9.9)
    source.come()
    assert PeerSilent("SSH", 10.0) not in source.events
    pass_time(loop, 0.2)
    assert source.events[-1] == PeerSilent("SSH", 10.0)
    source.come()
    pass_time(loop, 100.0)
    assert source.events.count(PeerSilent("SSH", 10.0)) == 1


@pytest.mark.parametrize("case", ["answered", "another answered", "left", "old", "link lost"])
def test_a_peer_is_not_called_silent_too_soon(loop: ClockLoop, case: str):
    version = PeerVersion.V2 if case == "old" else PeerVersion.AUTO
    source = Ready(loop, settings(peer_version=version))
    end = source.come()
    match case:
        case "answered":
            source.link_session.frame_received(data_message(b"x"))
        case "another answered":
            source.come()
            source.link_session.frame_received(data_message(b"x", connection_id=2))
        case "left":
            end.fail()
        case "link lost":
            source.lose_link()
    pass_time(loop, 100.0)
    assert not any(isinstance(event, PeerSilent) for event in source.events)


# -- whole tunnels -------------------------------------------------------------------------------


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


async def test_the_next_client_of_a_busy_application_does_not_wait_for_the_last_one_s_linger(
    service: ServiceProcess,
):
    """A device that serves one client at a time; each client closes when it has its answer."""
    busy = asyncio.Lock()

    async def one_at_a_time(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with busy:
            await echo(reader, writer)

    with tunnel_of(service, "SERIAL") as tunnel:
        async with application(one_at_a_time) as where:
            near = tunnel.settings(Side.SOURCE, linger=3600.0)
            far = tunnel.settings(Side.DESTINATION, services={"SERIAL": where})
            async with both_proxies(near, far) as ends:
                for _ in range(3):
                    async with client(ends.listening["SERIAL"]) as streams:
                        await check_echo(streams, b"hello")
