from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from support.network.applications import (
    application,
    check_echo,
    client,
    echo,
    noise,
    read_to_the_end,
)
from support.plugins.clock import ClockLoop
from support.service.process import ServiceProcess
from support.session.playbook import live
from support.tunnel import RunningProxy, both_proxies, disguise, tunnel_of
from support.tunnel.engine import NullLink, connections_of, deaf_application, pass_time, service_ids
from support.waiting import until
from tailrace.flow.receive_buffers import (
    CONNECTION_HIGH,
    CONNECTION_LOW,
    PAUSE_HIGH,
    PAUSE_LOW,
    TOTAL_HIGH,
    TOTAL_LOW,
)
from tailrace.localproxy.connection_states import ConnectionState
from tailrace.localproxy.inbound import Inbound
from tailrace.session import Connection, Session
from tailrace.session.ledger import FIRST_LIMIT
from tailrace.wire import (
    FLOW,
    NO_CAPABILITIES,
    Message,
    MessageType,
    Progress,
    Side,
    encode_progress,
)

# -- step by step --------------------------------------------------------------------------------


class Receiver:
    """A connection whose socket takes what a test says."""

    def __init__(self, rig: Rig, connection: Connection) -> None:
        self.connection = connection
        self.waiting = 0
        self._rig = rig

    def buffer(self, size: int) -> None:
        self.waiting += size
        self._rig.inbound.buffered(self, size)

    def take(self, size: int) -> None:
        self.waiting -= size
        self._rig.inbound.taken(self, size)

    def go(self) -> None:
        self._rig.inbound.removed(self)
        self.waiting = 0


class Rig:
    """The inbound side of a session, whose link notes when it is read."""

    def __init__(self, loop: ClockLoop) -> None:
        self.link = NullLink()
        self.read: list[bool] = []
        self.given_up: list[Receiver] = []
        self.crowded = True
        self.loop = loop
        self.session = Session(Side.SOURCE, self)
        self.session.capabilities = FLOW
        self.inbound: Inbound[Receiver] = Inbound(
            loop, self.session, 30.0, lambda: self.crowded, self._give_up
        )
        assert self.inbound.reading
        self.inbound.attach(self.read.append)
        self.session.receive_frame(service_ids("SSH"))

    def receiver(self, *, can_pause: bool = False) -> Receiver:
        connection = self.session.open("SSH")
        connection.stream.peer_capabilities = FLOW if can_pause else NO_CAPABILITIES
        return Receiver(self, connection)

    def event_occurred(self, event: object) -> None:
        pass

    def send_control(self, frame: bytes) -> None:
        self.link.send(frame)

    def _give_up(self, receiver: Receiver) -> None:
        self.given_up.append(receiver)
        receiver.go()

    @property
    def asked(self) -> list[int]:
        """The flow messages sent since the start."""
        kinds = (MessageType.CONNECTION_PAUSE, MessageType.CONNECTION_RESUME)
        return [kind for kind, _ in self.link.control[2:] if kind in kinds]

    @property
    def timers(self) -> int:
        return len([handle for handle in self.loop._scheduled if not handle.cancelled()])


@pytest.fixture
def rig() -> Iterator[Rig]:
    loop = ClockLoop()
    yield Rig(loop)
    loop.close()


def test_the_link_is_read_exactly_while_nothing_is_over_its_mark(rig: Rig):
    one = rig.receiver()
    one.buffer(CONNECTION_HIGH)
    assert rig.read == []
    one.buffer(1)
    one.buffer(1)
    assert rig.read == [False]
    assert not rig.inbound.reading
    one.take(CONNECTION_HIGH - CONNECTION_LOW + 1)
    assert rig.read == [False]
    one.take(1)
    one.take(1)
    assert rig.read == [False, True]
    assert rig.inbound.reading
    assert rig.timers == 0


def test_all_connections_together_have_a_mark(rig: Rig):
    receivers = [rig.receiver() for _ in range(TOTAL_HIGH // CONNECTION_HIGH + 1)]
    for receiver in receivers:
        receiver.buffer(CONNECTION_HIGH)
    assert rig.read == [False]
    assert rig.inbound.buffers.total == len(receivers) * CONNECTION_HIGH
    while rig.inbound.buffers.total > TOTAL_LOW:
        assert rig.read == [False]
        receivers.pop().go()
    assert rig.read == [False, True]


def test_a_connection_that_goes_stops_the_link_no_more(rig: Rig):
    one = rig.receiver()
    one.buffer(CONNECTION_HIGH + 1)
    one.go()
    assert rig.read == [False, True]
    assert rig.inbound.buffers.total == 0


def test_a_peer_that_understands_is_paused_and_resumed(rig: Rig):
    one = rig.receiver(can_pause=True)
    one.buffer(PAUSE_HIGH)
    assert rig.asked == []
    one.buffer(1)
    one.buffer(2 * CONNECTION_HIGH)
    assert rig.asked == [MessageType.CONNECTION_PAUSE]
    assert rig.read == []
    one.take(one.waiting - PAUSE_LOW - 1)
    assert rig.asked == [MessageType.CONNECTION_PAUSE]
    one.take(1)
    assert rig.asked == [MessageType.CONNECTION_PAUSE, MessageType.CONNECTION_RESUME]
    one.take(1)
    assert rig.asked == [MessageType.CONNECTION_PAUSE, MessageType.CONNECTION_RESUME]


def test_a_peer_that_does_not_understand_is_not_asked(rig: Rig):
    one = rig.receiver()
    one.buffer(PAUSE_HIGH + 1)
    one.take(one.waiting)
    assert rig.asked == []


def test_what_comes_is_acknowledged_within_a_second(rig: Rig):
    """One that has been silent for longer is looked at again as soon as something comes."""
    book = live(Side.SOURCE)
    inbound: Inbound[Receiver] = Inbound(rig.loop, book.session, 30.0, lambda: True, rig._give_up)
    one = Receiver(rig, book.open())
    ledger = one.connection.ledger
    assert ledger is not None
    book.forget()
    for received, looks in ((1, True), (2, False), (3, True), (4, True)):
        ledger.received = received
        assert (received >= ledger.ack_at) is looks
        if looks:
            inbound.mark_reached(one)
        pass_time(rig.loop, 0.9)
        book.expect()
        pass_time(rig.loop, 0.11)
        limit, number = received + FIRST_LIMIT, one.connection.connection_id
        payload = encode_progress(Progress(received, limit, fin_seen=False))
        ids = (1, "SSH1", number)
        book.expect(Message(MessageType.CONNECTION_ACK, *ids, payload, ignorable=True))
        if received > 1:
            pass_time(rig.loop, 3.0)
            assert rig.timers == 0
    inbound.mark_reached(one)
    inbound.removed(one)
    pass_time(rig.loop, 1.0)
    assert rig.timers == 0


def test_one_that_takes_nothing_while_others_wait_is_given_up(rig: Rig):
    stalled, slow = rig.receiver(), rig.receiver()
    pass_time(rig.loop, 100.0)
    stalled.buffer(CONNECTION_HIGH + 1)
    slow.buffer(CONNECTION_HIGH + 10)
    pass_time(rig.loop, 29.0)
    slow.take(1)
    pass_time(rig.loop, 0.9)
    assert rig.given_up == []
    pass_time(rig.loop, 0.2)
    # It is looked for at 7.5, 15, 22.5, 30 seconds.
    assert rig.given_up == [stalled]
    assert rig.read == [False]
    pass_time(rig.loop, 22.4)
    slow.take(1)
    pass_time(rig.loop, 40.0)
    assert rig.given_up == [stalled, slow]
    assert rig.read == [False, True]
    assert rig.timers == 0


def test_one_that_is_alone_may_take_as_long_as_it_likes(rig: Rig):
    rig.crowded = False
    one = rig.receiver()
    one.buffer(CONNECTION_HIGH + 1)
    pass_time(rig.loop, 3600.0)
    assert rig.given_up == []
    rig.crowded = True
    pass_time(rig.loop, 7.5)
    assert rig.given_up == [one]


def test_no_more_are_given_up_than_it_takes(rig: Rig):
    """Those that are too much together, but none of them over its own mark."""
    receivers = [rig.receiver() for _ in range(TOTAL_HIGH // CONNECTION_HIGH + 1)]
    for receiver in receivers:
        receiver.buffer(CONNECTION_HIGH)
        pass_time(rig.loop, 0.001)
    pass_time(rig.loop, 37.5)
    assert rig.given_up == receivers[: len(rig.given_up)]
    left = (len(receivers) - len(rig.given_up)) * CONNECTION_HIGH
    assert TOTAL_LOW - CONNECTION_HIGH < left <= TOTAL_LOW
    assert rig.read == [False, True]


def test_a_pause_that_ends_stops_the_look_for_stalled_ones(rig: Rig):
    one = rig.receiver()
    one.buffer(CONNECTION_HIGH + 1)
    assert rig.timers == 1
    one.take(one.waiting)
    assert rig.timers == 0
    one.buffer(CONNECTION_HIGH + 1)
    assert rig.timers == 1
    pass_time(rig.loop, 29.9)
    assert rig.given_up == []


def test_without_a_link_nothing_is_regulated(rig: Rig):
    one, other = rig.receiver(), rig.receiver()
    one.buffer(CONNECTION_HIGH + 1)
    rig.inbound.detach()
    assert rig.timers == 0
    other.buffer(CONNECTION_HIGH + 1)
    one.go()
    other.go()
    pass_time(rig.loop, 3600.0)
    assert rig.read == [False]
    assert rig.given_up == []
    rig.inbound.detach()


def test_a_new_link_is_read_unless_the_buffers_are_full(rig: Rig):
    one = rig.receiver()
    one.buffer(CONNECTION_HIGH + 1)
    rig.inbound.detach()
    second: list[bool] = []
    rig.inbound.attach(second.append)
    assert second == [False]
    assert rig.timers == 1
    rig.inbound.detach()
    one.go()
    third: list[bool] = []
    rig.inbound.attach(third.append)
    assert third == []
    assert rig.inbound.reading
    rig.receiver().buffer(CONNECTION_HIGH + 1)
    assert third == [False]
    assert (rig.read, second) == ([False], [False])


# -- whole tunnels -------------------------------------------------------------------------------


def states(proxy: RunningProxy, service_id: str | None = None) -> list[ConnectionState]:
    """Return the states of a proxy's connections, or of those of one service."""
    found = proxy.proxy.status().connections
    return [each.state for each in found if service_id in (None, each.service_id)]


def state_of(proxy: RunningProxy, service_id: str) -> ConnectionState | None:
    """Return the state of the first connection of a service, if there is one."""
    return next(iter(states(proxy, service_id)), None)


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
                destination = connections_of(ends.destination)
                await until(
                    lambda: state_of(ends.source, "DEAF") is ConnectionState.PAUSED, "the pause"
                )
                await asyncio.sleep(0.3)  # it may take as long as it likes
                await check_echo(other, b"meanwhile")
                assert destination.inbound.reading
                assert PAUSE_HIGH < destination.inbound.buffers.total < len(content)
                loop = asyncio.get_running_loop()
                with (await loop.sock_accept(listening))[0] as sock:
                    taken = bytearray()
                    while len(taken) < len(content):
                        taken += await loop.sock_recv(sock, 1_000_000)
                    assert taken == content
                    await until(
                        lambda: state_of(ends.source, "DEAF") is ConnectionState.OPEN, "the resume"
                    )
                    await until(lambda: destination.inbound.buffers.total == 0, "nothing to wait")


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
                source = connections_of(ends.source)
                await until(
                    lambda: state_of(ends.destination, "TALK") is ConnectionState.PAUSED,
                    "the pause",
                )
                await check_echo(other, b"meanwhile")
                assert source.inbound.reading
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
                async with client(ends.listening["DEAF"]) as (_, writer):
                    writer.write(content)
                    await until(
                        lambda: state_of(ends.source, "DEAF") is ConnectionState.PAUSED, "the pause"
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
            destination = connections_of(ends.destination)
            count, content = 3, noise(TOTAL_HIGH // 2)
            for _ in range(count):
                stalled = await stack.enter_async_context(client(ends.listening["DEAF"]))
                stalled[1].write(content)
            await until(
                lambda: states(ends.source).count(ConnectionState.PAUSED) == count,
                "all of them to be paused",
            )
            await asyncio.sleep(0.4)  # it may take as long as it likes
            await check_echo(other, b"after")
            assert destination.inbound.reading
            assert destination.inbound.buffers.total < TOTAL_HIGH
            loop = asyncio.get_running_loop()
            for _ in range(count):
                with (await loop.sock_accept(listening))[0] as sock:
                    taken = bytearray()
                    while len(taken) < len(content):
                        taken += await loop.sock_recv(sock, 1_000_000)
                assert taken == content
    assert "has taken nothing" not in caplog.text


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
                destination = connections_of(ends.destination)
                await until(lambda: not destination.inbound.reading, "the link to stop")
                waiting = destination.inbound.buffers.total
                assert CONNECTION_HIGH < waiting < len(content)
                await asyncio.sleep(0.3)  # alone, it may take as long as it likes
                loop = asyncio.get_running_loop()
                with (await loop.sock_accept(listening))[0] as sock:
                    taken = bytearray()
                    while len(taken) < len(content):
                        taken += await loop.sock_recv(sock, 1_000_000)
                assert taken == content
                await until(lambda: destination.inbound.reading, "the link to go on")
                assert destination.inbound.buffers.total == 0


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
