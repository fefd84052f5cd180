from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Iterator

import pytest

from support.network.applications import application, check_echo, check_refused, client, echo
from support.network.ports import free_port
from support.network.sockets import black_hole
from support.plugins.clock import ClockLoop
from support.service.process import ServiceProcess
from support.tunnel import both_proxies, tunnel_of
from support.tunnel.engine import Ready, data_message, settings, turn
from support.waiting import until
from tailrace.common.addresses import TCPAddress, UnixAddress
from tailrace.localproxy.applications import name_of
from tailrace.localproxy.connection_states import ConnectionState
from tailrace.localproxy.dialer import DialFailed
from tailrace.localproxy.events import ConnectionClosed, ConnectionOpened, ConnectionRefused
from tailrace.localproxy.routes import SocketFactory, StreamHandler
from tailrace.localproxy.socket_pair import socket_pair
from tailrace.wire import Message, MessageType, Side, encode_delimited

RESET = (MessageType.CONNECTION_RESET, 1)
STREAM_RESET = (MessageType.STREAM_RESET, 0)

# -- handlers, step by step ----------------------------------------------------------------------


def message(kind: MessageType) -> memoryview:
    return memoryview(encode_delimited(Message(kind, 1, "SSH", 1)))


def requested(loop: ClockLoop, handler: StreamHandler) -> Ready:
    """Return a destination whose handler the peer has connected to."""
    far = Ready(loop, settings(Side.DESTINATION), services={"SSH": handler})
    far.link_session.frame_received(message(MessageType.STREAM_START))
    return far


def test_applications_are_named_by_their_address():
    assert name_of(TCPAddress("::1", 22)) == "[::1]:22"
    assert name_of(UnixAddress("/run/app")) == "/run/app"
    assert name_of(echo) == name_of(SocketFactory(socket_pair)) == "in process"


def test_a_handler_serves_a_connection_within_this_process(loop: ClockLoop):
    far = requested(loop, echo)
    assert far.events == [ConnectionOpened("SSH", 1, "in process")]
    assert [local.state for local in far.table] == [ConnectionState.OPEN]
    far.link_session.frame_received(data_message(b"hello"))
    turn(loop, 5)
    assert far.link.data == b"hello"
    far.link_session.frame_received(message(MessageType.CONNECTION_RESET))
    turn(loop, 5)
    assert far.traffic.is_drained
    assert far.events[1:] == [ConnectionClosed("SSH", 1, "in process", 5, 5)]


def test_a_handler_that_returns_ends_its_connection_with_everything_said(loop: ClockLoop):
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")

    far = requested(loop, greet)
    turn(loop, 5)
    assert far.link.data == b"hello"
    assert far.link.control == [RESET]
    assert far.traffic.is_drained


def test_a_handler_that_fails_is_named_and_resets_its_connection(
    loop: ClockLoop, caplog: pytest.LogCaptureFixture
):
    async def fail(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"lost")
        raise ValueError("of its own")

    far = requested(loop, fail)
    turn(loop, 5)
    assert far.link.data == b""
    assert far.link.control == [RESET]
    assert "The handler of service 'SSH' failed" in caplog.text
    assert "ValueError: of its own" in caplog.text
    assert far.traffic.is_drained


def test_a_handler_whose_peer_is_gone_is_no_fault(
    loop: ClockLoop, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)

    async def insist(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        while True:
            writer.write(b"still there?")
            await writer.drain()

    far = requested(loop, insist)
    far.link_session.frame_received(message(MessageType.CONNECTION_RESET))
    turn(loop, 20)
    assert far.traffic.is_drained
    assert "The handler of service 'SSH' ended: Connection lost" in caplog.text
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


def test_a_handler_that_runs_on_keeps_its_session_from_being_drained(loop: ClockLoop):
    done = asyncio.Event()

    async def linger(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        await done.wait()

    far = requested(loop, linger)
    turn(loop, 5)
    assert far.table.is_drained
    assert not far.traffic.is_drained
    waiting = loop.create_task(far.traffic.wait_drained())
    turn(loop, 3)
    assert not waiting.done()
    done.set()
    turn(loop, 3)
    assert waiting.done()
    assert far.traffic.is_drained


def test_a_handler_that_is_cancelled_leaves_nothing(loop: ClockLoop):
    far = requested(loop, echo)
    turn(loop)
    (handler,) = far.traffic.applications.tasks
    handler.cancel()
    turn(loop, 5)
    assert far.link.control == [RESET]
    assert far.traffic.is_drained


# -- addresses, through whole tunnels ------------------------------------------------------------


async def test_an_application_that_refuses_ends_its_connection_alone(service: ServiceProcess):
    with tunnel_of(service, "UP", "DOWN") as tunnel:
        async with application(echo) as app:
            services = {"UP": app, "DOWN": TCPAddress("127.0.0.1", free_port())}
            far = tunnel.settings(Side.DESTINATION, services=services)
            async with (
                both_proxies(tunnel.settings(Side.SOURCE), far) as ends,
                client(ends.listening["UP"]) as streams,
            ):
                await check_echo(streams, b"before")
                await check_refused(ends.listening["DOWN"])
                refused = await ends.destination.seen(ConnectionRefused)
                assert refused.reason.startswith("Could not connect to destination 127.0.0.1:")
                assert "Connection refused" in refused.reason
                await check_echo(streams, b"after")
                opened = ends.destination.all(ConnectionOpened)
                assert [event.service_id for event in opened] == ["UP"]


async def test_an_application_that_has_a_socket_in_this_process(service: ServiceProcess):
    ends_of_applications: list[socket.socket] = []

    async def connect() -> socket.socket:
        near, far = await socket_pair()
        ends_of_applications.append(near)
        return far

    loop = asyncio.get_running_loop()
    with tunnel_of(service, "SSH") as tunnel:
        far = tunnel.settings(Side.DESTINATION, services={"SSH": SocketFactory(connect)})
        async with both_proxies(tunnel.settings(Side.SOURCE), far) as ends:
            async with client(ends.listening["SSH"]) as (reader, writer):
                opened = await ends.destination.seen(ConnectionOpened)
                assert opened.peer == "in process"
                with ends_of_applications[0] as sock:
                    writer.write(b"hello")
                    assert await loop.sock_recv(sock, 5) == b"hello"
                    await loop.sock_sendall(sock, b"bye")
                assert await reader.read() == b"bye"


@contextlib.contextmanager
def silent_address() -> Iterator[TCPAddress]:
    """An address where a dial hangs until it is cancelled."""
    with black_hole() as port:
        yield TCPAddress("127.0.0.1", port)


async def test_a_client_that_leaves_while_the_application_is_dialed(
    service: ServiceProcess, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    with tunnel_of(service, "SSH") as tunnel, silent_address() as address:
        far = tunnel.settings(Side.DESTINATION, services={"SSH": address})
        async with both_proxies(tunnel.settings(Side.SOURCE, linger=0.1), far) as ends:
            (traffic,) = ends.destination.proxy._uplink.traffics
            async with client(ends.listening["SSH"]):
                await until(lambda: traffic.applications.tasks, "a dial")
                (dialing,) = ends.destination.proxy.status().connections
                assert dialing.state is ConnectionState.DIALING
            await until(lambda: traffic.is_drained, "no dial")
            assert not ends.destination.all(ConnectionClosed)
    assert f"Attempting to establish tcp socket connection to: {address}" in caplog.text


async def test_the_end_of_the_proxy_cancels_dials(service: ServiceProcess):
    with tunnel_of(service, "SSH") as tunnel, silent_address() as address:
        far = tunnel.settings(Side.DESTINATION, services={"SSH": address})
        async with both_proxies(tunnel.settings(Side.SOURCE), far) as ends:
            (traffic,) = ends.destination.proxy._uplink.traffics
            async with client(ends.listening["SSH"]) as (_, writer):
                writer.write(b"waits for the dial")
                await until(lambda: any(local.waiting for local in traffic.connections), "data")
                (dial,) = traffic.applications.tasks
                ends.destination.proxy.stop()
                ends.destination.proxy.stop()
                await ends.destination.ended()
                assert dial.cancelled()


async def test_dials_that_are_abandoned_are_named(
    service: ServiceProcess, caplog: pytest.LogCaptureFixture
):
    with tunnel_of(service, "SSH") as tunnel, silent_address() as address:
        far = tunnel.settings(Side.DESTINATION, services={"SSH": address})
        async with both_proxies(tunnel.settings(Side.SOURCE), far) as ends:
            (traffic,) = ends.destination.proxy._uplink.traffics
            async with client(ends.listening["SSH"]) as (_, writer):
                writer.write(b"last words")
                await until(lambda: any(local.waiting for local in traffic.connections), "data")
                (dial,) = traffic.applications.tasks
                traffic.applications.abandon_dials()
                assert traffic.is_drained
                assert f"{address}: not reached before the end; 10 bytes lost" in caplog.text
                await until(dial.done, "the end of the dial")
                traffic.applications.abandon_dials()


# -- many at once ----------------------------------------------------------------------------------


class Held:
    """Dials that end when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waiting: list[tuple[str, asyncio.Future[socket.socket]]] = []
        monkeypatch.setattr("tailrace.localproxy.applications.dial", self._dial)

    async def _dial(self, address: TCPAddress, *_: object) -> socket.socket:
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((str(address), future))
        return await future

    @property
    def addresses(self) -> list[str]:
        return [address for address, future in self.waiting if not future.done()]

    def refuse(self, count: int) -> None:
        for _, future in [each for each in self.waiting if not each[1].done()][:count]:
            future.set_exception(DialFailed("there -- Connection refused", "refused"))


SERVICES = {"A": TCPAddress("", 1), "B": TCPAddress("", 2)}


def request(far: Ready, service_id: str, count: int) -> None:
    for number in range(1, count + 1):
        kind = MessageType.STREAM_START if number == 1 else MessageType.CONNECTION_START
        frame = encode_delimited(Message(kind, 1, service_id, number))
        far.link_session.frame_received(memoryview(frame))
        turn(far._loop)


def test_some_are_dialed_at_once_and_the_others_wait(
    loop: ClockLoop, monkeypatch: pytest.MonkeyPatch
):
    """A peer decides how fast connections come, but not how many sockets are made at once."""
    held = Held(monkeypatch)
    far = Ready(loop, settings(Side.DESTINATION), ("A", "B"), services=SERVICES)
    request(far, "A", 200)
    assert held.addresses == ["1"] * 128
    request(far, "B", 1)  # does not wait for another service's application
    assert held.addresses == ["1"] * 128 + ["2"]
    held.refuse(50)
    turn(loop, 3)
    assert held.addresses == ["1"] * 78 + ["2"] + ["1"] * 50
    held.refuse(200)
    turn(loop, 3)
    assert held.addresses == ["1"] * 22
    held.refuse(22)
    turn(loop, 3)
    assert held.addresses == []
    refused = [event for event in far.events if isinstance(event, ConnectionRefused)]
    assert len(refused) == 201
    numbers = [event.connection_id for event in refused if event.service_id == "A"]
    assert numbers == list(range(1, 201))  # those that came first are dialed first
    assert not far.traffic.applications.tasks
    assert far.traffic.is_drained


def test_applications_of_this_machine_are_connected_at_once_but_no_more_than_that_in_a_turn(
    loop: ClockLoop,
):
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listening:
        address = TCPAddress("127.0.0.1", listening.getsockname()[1])
        far = Ready(loop, settings(Side.DESTINATION), ("A",), services={"A": address})
        for number in range(1, 201):
            kind = MessageType.STREAM_START if number == 1 else MessageType.CONNECTION_START
            frame = encode_delimited(Message(kind, 1, "A", number))
            far.link_session.frame_received(memoryview(frame))
        opened = [
            event.connection_id for event in far.events if isinstance(event, ConnectionOpened)
        ]
        assert opened == list(range(1, 129))
        turn(loop)
        opened = [
            event.connection_id for event in far.events if isinstance(event, ConnectionOpened)
        ]
        assert opened == list(range(1, 201))
        assert not far.traffic.applications.tasks
        far.lose_link()
        far.table.abort()
        assert far.traffic.is_drained


def test_an_attempt_that_is_cancelled_before_its_task_has_begun_leaves_no_socket(loop: ClockLoop):
    with black_hole() as port:
        services = {"SSH": TCPAddress("127.0.0.1", port)}
        far = Ready(loop, settings(Side.DESTINATION), services=services)
        before = descriptors()
        far.link_session.frame_received(message(MessageType.STREAM_START))
        assert descriptors() == before + 1
        far.link_session.frame_received(message(MessageType.CONNECTION_RESET))
        turn(loop, 3)
        assert descriptors() == before
        assert far.traffic.is_drained


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_those_that_wait_to_be_dialed_end_with_the_link(
    loop: ClockLoop, monkeypatch: pytest.MonkeyPatch
):
    held = Held(monkeypatch)
    far = Ready(loop, settings(Side.DESTINATION), ("A", "B"), services=SERVICES)
    request(far, "A", 200)
    far.link_session.frame_received(data_message(b"last words", "A", 200))
    far.lose_link()
    turn(loop, 3)
    # One has something to be delivered, and is dialed for that.
    assert held.addresses == ["1"]
    assert [local.waiting for local in far.table] == [10]
    far.traffic.applications.abandon_dials()
    turn(loop, 3)
    assert not far.traffic.applications.tasks
    assert far.traffic.is_drained


def test_one_that_waits_to_be_dialed_can_be_abandoned(
    loop: ClockLoop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    Held(monkeypatch)
    far = Ready(loop, settings(Side.DESTINATION), ("A", "B"), services=SERVICES)
    request(far, "A", 129)
    far.link_session.frame_received(data_message(b"last words", "A", 129))
    far.traffic.applications.abandon_dials()
    turn(loop, 3)
    assert not far.traffic.applications.tasks
    assert far.traffic.is_drained
    assert "127.0.0.1:1" not in caplog.text
    assert "1: not reached before the end; 10 bytes lost" in caplog.text
