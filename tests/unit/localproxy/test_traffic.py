from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest

from support.network.applications import Handler, application, check_echo, client, echo
from support.plugins.clock import ClockLoop
from support.service.process import ServiceProcess
from support.session.playbook import RESUMABLE, frame_of, joined, left
from support.tunnel import both_proxies, tunnel_of
from support.tunnel.engine import (
    NullLink,
    Ready,
    ScriptedEnd,
    data_message,
    pass_time,
    settings,
    turn,
)
from support.waiting import until
from tailrace.flow.receive_buffers import PAUSE_HIGH
from tailrace.link import ClosedBy, LinkClosed
from tailrace.localproxy.clients import Client
from tailrace.localproxy.connection_states import ConnectionState
from tailrace.localproxy.events import (
    ConnectionClosed,
    ConnectionCut,
    PeerDialectLearned,
    ProxyEvent,
    TunnelPaused,
    TunnelResumed,
)
from tailrace.localproxy.settings import PeerVersion
from tailrace.session import LARGE, V1, V2, V3, EndCause
from tailrace.wire import FLOW, Message, MessageType, Side, encode_delimited

PAUSE, RESUME = MessageType.CONNECTION_PAUSE, MessageType.CONNECTION_RESUME


def frame(kind: int, connection_id: int = 1, service_id: str = "SSH") -> memoryview:
    ignorable = kind in (PAUSE, RESUME)
    message = Message(kind, 1, service_id, connection_id, ignorable=ignorable)
    return memoryview(encode_delimited(message))


@pytest.mark.parametrize(
    ("version", "dialect"),
    [(PeerVersion.AUTO, V3), (PeerVersion.V1, V1), (PeerVersion.V2, V2), (PeerVersion.V3, V3)],
)
def test_a_source_speaks_as_it_was_told(loop: ClockLoop, version: PeerVersion, dialect: object):
    assert Ready(loop, settings(peer_version=version)).traffic.session.dialect is dialect
    far = Ready(loop, settings(Side.DESTINATION, peer_version=version))
    assert far.traffic.session.dialect is V3


def test_a_session_knows_the_configured_service_ids(loop: ClockLoop):
    assert Ready(loop, settings(services={"SSH": echo}), ids=("SSH",)).failures == []
    (failure,) = Ready(loop, settings(services={"VNC": echo}), ids=("SSH",)).failures
    assert "[SSH], you gave [VNC]" in str(failure)


@pytest.mark.parametrize("flow_messages", [True, False])
def test_flow_messages_go_where_the_service_passes_them_on(loop: ClockLoop, flow_messages: bool):
    source = Ready(loop, settings(), flow_messages=flow_messages)
    end = source.come()
    assert ((RESUME, 1) in source.link.control) is flow_messages
    end.room = 0
    source.link_session.frame_received(frame(RESUME))
    payload = bytes(60_000)
    for _ in range(PAUSE_HIGH // len(payload) + 1):
        source.link_session.frame_received(data_message(payload))
    assert ((PAUSE, 1) in source.link.control) is flow_messages
    source.close()


def test_pauses_of_the_peer_hold_its_connection_back(loop: ClockLoop):
    source = Ready(loop, settings(), flow_messages=True)
    end = source.come()
    source.link_session.frame_received(frame(PAUSE))
    assert [local.state for local in source.table] == [ConnectionState.PAUSED]
    source.link_session.frame_received(frame(RESUME))
    assert [local.state for local in source.table] == [ConnectionState.OPEN]
    end.say(b"hello")
    assert source.link.data == b"hello"


def test_what_is_ignored_is_in_the_log(loop: ClockLoop, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    source = Ready(loop, settings())
    source.link_session.frame_received(frame(MessageType.CONNECTION_RESET))
    assert "Ignored message type 7 of service 'SSH': the stream is not open" in caplog.text
    caplog.clear()
    # That of our own kind may come late, or change nothing, and is no news.
    for kind in (PAUSE, RESUME):
        source.link_session.frame_received(frame(kind))
    assert caplog.messages == []


def test_the_end_of_the_link_ends_every_connection_and_lets_them_drain(loop: ClockLoop):
    source = Ready(loop, settings())
    ends = [source.come() for _ in range(2)]
    ends[0].room = 0
    source.link_session.frame_received(data_message(b"last words"))
    sent = bytes(source.link.sent)
    source.lose_link()
    assert not source.traffic.is_drained
    ends[0].take()
    assert ends[0].taken == b"last words"
    assert all(end.was_reset and not end.shut for end in ends)
    assert source.traffic.is_drained
    cut = [event for event in source.events if isinstance(event, ConnectionCut)]
    reason = "the link to the service was lost"
    assert cut == [
        ConnectionCut("SSH", 1, "client", 10, reason),
        ConnectionCut("SSH", 2, "client", 0, reason),
    ]
    assert len([event for event in source.events if isinstance(event, ConnectionClosed)]) == 2
    source.come()  # nobody takes it
    pass_time(loop, 100.0)
    assert source.link.sent == sent


def test_what_waits_is_not_lost_with_the_link(loop: ClockLoop):
    source = Ready(loop, settings())
    end = source.come()
    end.room = 0
    source.link_session.frame_received(data_message(b"last words"))
    source.lose_link()
    assert [local.state for local in source.table] == [ConnectionState.FLUSHING]
    end.take()
    assert end.taken == b"last words"


def test_it_can_be_attached_to_another_link(loop: ClockLoop):
    """The ways in and out are those of the latest one."""
    source = Ready(loop, settings())
    end = source.come()
    other = NullLink()

    class Other:
        capabilities = FLOW
        reading: list[bool] = []

        def send_control(self, sent: bytes) -> None:
            other.send(sent)

        def send_data(self, message: memoryview) -> None:
            other.send(message)

        def set_reading(self, reading: bool) -> None:
            self.reading.append(reading)

    source.traffic.attach(Other())
    end.say(b"hello")
    source.table.reset_all("")
    assert source.link.data == b""
    assert other.data == b"hello"
    assert other.control == [(MessageType.CONNECTION_RESET, 1)]
    assert source.traffic.session.capabilities == FLOW
    source.close()


async def test_an_older_peer_is_told_about_once(service: ServiceProcess):
    """A source that says V2 makes the destination answer in V2, which a V3 source follows."""
    with tunnel_of(service, "SSH") as tunnel:
        async with application(echo) as app:
            far = tunnel.settings(Side.DESTINATION, services={"SSH": app}, resume_timeout=0.0)
            near = tunnel.settings(Side.SOURCE)
            async with both_proxies(near, far) as ends:
                (destination,) = ends.destination.proxy._uplink.traffics
                async with client(ends.listening["SSH"]) as streams:
                    await until(lambda: destination.session.connections, "the connection")
                    for connection in destination.session.connections:
                        connection.drop_number()
                    await check_echo(streams, b"hello")
                    await check_echo(streams, b"again")
                assert ends.source.all(PeerDialectLearned) == [PeerDialectLearned("V2")]


# -- connections that outlive links ---------------------------------------------------------------


async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(86_400.0)


async def take_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionResetError):
        while await reader.read(65_536):
            pass


class Meeting:
    """Both ends of a tunnel, and between them what a service would pass on."""

    def __init__(
        self, loop: ClockLoop, resume_timeout: float = 120.0, handler: Handler = hold
    ) -> None:
        near = settings(resume_timeout=resume_timeout)
        far = settings(Side.DESTINATION, resume_timeout=resume_timeout)
        self._loop = loop
        self.source = Ready(loop, near, capabilities=RESUMABLE)
        self.destination = Ready(loop, far, services={"SSH": handler}, capabilities=RESUMABLE)
        self._carried: dict[NullLink, int] = {}
        self.meet()

    def meet(self) -> None:
        """Tell both ends of each other, and let them agree."""
        for end in (self.source, self.destination):
            end.link_session.frame_received(memoryview(frame_of(joined())))
        self.carry()

    def carry(self) -> None:
        """Pass on what both ends have sent, until they send nothing more."""
        before = -1
        while (
            now := len(self.source.link.messages) + len(self.destination.link.messages)
        ) > before:
            before = now
            self._pass(self.source.link, self.destination)
            self._pass(self.destination.link, self.source)
            turn(self._loop, 3)

    def deliver(self, count: int) -> None:
        """Pass on so many more messages of the source, and nothing of the destination."""
        self._pass(self.source.link, self.destination, count)

    def _pass(self, link: NullLink, to: Ready, most: int | None = None) -> None:
        begin = self._carried.get(link, 0)
        end = len(link.messages) if most is None else begin + most
        for message in link.messages[begin:end]:
            to.link_session.frame_received(memoryview(encode_delimited(message)))
        self._carried[link] = end

    def cut(self) -> None:
        """Lose the link of the source, of which the destination is told."""
        self.source.lose_link()
        self.destination.link_session.frame_received(memoryview(frame_of(left())))

    def events(self, *kinds: type) -> list[list[ProxyEvent]]:
        """Return what both ends have told, of these kinds."""
        ends = (self.source, self.destination)
        return [[event for event in end.events if isinstance(event, kinds)] for end in ends]

    def close(self) -> None:
        self.source.close()
        self.destination.close()


def test_connections_wait_for_the_link_and_go_on(loop: ClockLoop):
    meeting = Meeting(loop)
    ends = [meeting.source.come() for _ in range(2)]
    meeting.carry()
    ends[0].say(b"lost with the link")
    meeting.cut()
    near, far = meeting.events(TunnelPaused, TunnelResumed)
    assert near == [TunnelPaused("link lost", 2, 120.0)]
    assert far == [TunnelPaused("the source has left", 2, 120.0)]
    pass_time(loop, 3.0)
    meeting.source.open_link()
    meeting.meet()
    (*_, mine), (*_, its) = meeting.events(TunnelPaused, TunnelResumed)
    assert isinstance(mine, TunnelResumed)
    assert isinstance(its, TunnelResumed)
    assert (mine.connections, mine.bytes_again) == (2, 18)
    assert (its.connections, its.bytes_again) == (2, 0)
    assert mine.after == pytest.approx(3.0, abs=0.5)
    assert meeting.source.link.data == b"lost with the link"
    pass_time(loop, 200.0)
    assert meeting.events(ConnectionCut) == [[], []]
    assert not any(end.closed for end in ends)
    meeting.close()


@pytest.mark.parametrize("count", range(8))
def test_what_was_lost_is_sent_again_whatever_sizes_it_had(loop: ClockLoop, count: int):
    """Large messages stay where they were read, small ones are copied behind one another."""
    meeting = Meeting(loop, handler=take_all)
    end = meeting.source.come()
    meeting.carry()
    for _ in range(10):
        end.say(bytes(60_000))
        meeting.source.answer_pings()
        meeting.carry()
    before = len(meeting.source.link.messages)
    said = [bytes([n]) * size for n, size in enumerate((5, 40_000, 7, 1, 33_000, 34_000, 3))]
    for piece in said:
        end.say(piece)
        turn(loop, 2)
    # Where less may be sent just then, a piece goes in two messages.
    pieces = [bytes(message.payload) for message in meeting.source.link.messages[before:]]
    assert b"".join(pieces) == b"".join(said)
    assert sum(len(piece) >= LARGE for piece in pieces) >= 2
    meeting.deliver(count)
    meeting.cut()
    meeting.source.open_link()
    meeting.meet()
    for _ in range(10):
        meeting.source.answer_pings()
        meeting.carry()
    assert meeting.source.link.data == b"".join(pieces[count:])
    (resumed,) = meeting.events(TunnelResumed)[0]
    assert isinstance(resumed, TunnelResumed)
    assert resumed.bytes_again == len(meeting.source.link.data)
    meeting.close()


def test_new_clients_wait_as_long_as_open_connections_do(loop: ClockLoop):
    meeting = Meeting(loop)
    table = meeting.source.table
    meeting.source.come()
    meeting.carry()
    meeting.source.link_session.frame_received(memoryview(frame_of(left())))
    newcomer = Client("SSH", "newcomer", ScriptedEnd())
    reason = meeting.source.clients._add(newcomer)
    assert reason == "the destination has left, and open connections wait for it"
    meeting.cut()
    meeting.source.clients.pause()
    assert meeting.source.clients._add(Client("SSH", "third", ScriptedEnd())) == "there is no link"
    meeting.source.open_link()
    assert table.serve("SSH") == "the destination has not agreed yet how open connections go on"
    assert len(list(table)) == 1
    meeting.meet()
    assert sorted(local.name for local in table) == ["client", "newcomer", "third"]
    meeting.close()


def test_connections_that_wait_in_vain_are_cut(loop: ClockLoop):
    meeting = Meeting(loop, resume_timeout=5.0)
    end = meeting.source.come()
    meeting.carry()
    meeting.cut()
    pass_time(loop, 4.9)
    assert meeting.events(ConnectionCut) == [[], []]
    pass_time(loop, 0.2)
    reason = EndCause.NOT_RESUMED.value
    near, far = meeting.events(ConnectionCut)
    assert near == [ConnectionCut("SSH", 1, "client", 0, reason)]
    assert [event.reason for event in far if isinstance(event, ConnectionCut)] == [reason]
    assert end.was_reset
    meeting.source.open_link()
    meeting.meet()
    assert meeting.events(TunnelResumed) == [[], []]
    again = meeting.source.come()
    meeting.carry()
    again.say(b"hello")
    assert meeting.source.link.data == b"hello"
    meeting.close()


def test_a_pause_is_told_once(loop: ClockLoop):
    meeting = Meeting(loop)
    meeting.source.come()
    meeting.carry()
    meeting.cut()
    meeting.source.open_link()
    meeting.cut()
    meeting.source.open_link()
    meeting.meet()
    near, far = meeting.events(TunnelPaused, TunnelResumed)
    assert [type(event) for event in near] == [TunnelPaused, TunnelResumed]
    assert [type(event) for event in far] == [TunnelPaused, TunnelResumed]
    meeting.close()


def test_nothing_is_told_of_a_cut_without_connections(loop: ClockLoop):
    meeting = Meeting(loop)
    meeting.cut()
    meeting.source.open_link()
    meeting.meet()
    assert meeting.events(TunnelPaused, TunnelResumed) == [[], []]
    meeting.close()


def test_an_abort_ends_the_wait(loop: ClockLoop):
    meeting = Meeting(loop, resume_timeout=5.0)
    end = meeting.source.come()
    meeting.carry()
    meeting.cut()
    meeting.source.traffic.abort()
    assert end.was_reset
    told = len(meeting.source.events)
    pass_time(loop, 10.0)
    assert len(meeting.source.events) == told
    meeting.close()


def test_an_end_for_good_ends_the_wait_and_says_so(loop: ClockLoop):
    meeting = Meeting(loop)
    end = meeting.source.come()
    meeting.carry()
    meeting.cut()
    meeting.source.traffic.give_up(EndCause.TUNNEL_ENDED)
    near, _ = meeting.events(ConnectionCut)
    assert near == [ConnectionCut("SSH", 1, "client", 0, "the tunnel has ended")]
    assert end.was_reset
    meeting.close()


def test_a_peer_that_never_agrees_holds_nobody_for_longer(loop: ClockLoop):
    """It says that it can go on over lost links, and makes no offer."""
    source = Ready(loop, settings(resume_timeout=5.0), capabilities=RESUMABLE)
    source.link_session.frame_received(memoryview(frame_of(left())))
    end = source.come()
    source.link_session.frame_received(memoryview(frame_of(joined())))
    pass_time(loop, 4.9)
    assert not end.was_reset
    pass_time(loop, 0.2)
    assert end.was_reset
    assert [event for event in source.events if isinstance(event, TunnelPaused)] == []
    source.close()


def test_nothing_is_waited_for_behind_the_end_of_the_tunnel(loop: ClockLoop):
    meeting = Meeting(loop)
    meeting.source.come()
    meeting.carry()
    meeting.cut()
    meeting.destination.link_session.link_closed(LinkClosed(ClosedBy.PEER, 1000, "closed"))
    assert not meeting.destination.traffic.waits
    meeting.close()
