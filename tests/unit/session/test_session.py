"""The session's own surface: states, properties, errors and reasons.

What it does message by message stands in ``tests/session``.
"""

from __future__ import annotations

import pytest

from support.session.playbook import Playbook, ready, service_ids
from tailrace.errors import LocalProtocolError, RemoteProtocolError, ServiceIdMismatch
from tailrace.session import V1, V2, V3, Dialect, MessageIgnored
from tailrace.session.events import Event
from tailrace.session.session import Session, SessionState
from tailrace.wire import Message, MessageType, Side

BOTH = pytest.mark.parametrize("side", [Side.SOURCE, Side.DESTINATION])


def message(kind: MessageType, stream_id: int = 1, service_id: str = "SSH1", c: int = 1) -> Message:
    return Message(kind, stream_id, service_id, c)


class TestStates:
    """Awaiting the service ids, ready, closed."""

    @BOTH
    def test_in_order(self, side: Side) -> None:
        book = Playbook(side)
        session = book.session
        assert session.side is side
        seen = [(session.state, session.closed)]
        book.receive(service_ids("SSH1"))
        seen.append((session.state, session.closed))
        session.link_lost()
        seen.append((session.state, session.closed))
        assert seen == [
            (SessionState.AWAITING_SERVICE_IDS, False),
            (SessionState.READY, False),
            (SessionState.CLOSED, True),
        ]

    @BOTH
    def test_a_mismatch_leaves_it_waiting(self, side: Side) -> None:
        book = Playbook(side, ("VNC",))
        with pytest.raises(ServiceIdMismatch):
            book.receive(service_ids("SSH1"))
        assert book.session.state is SessionState.AWAITING_SERVICE_IDS

    @BOTH
    def test_a_link_lost_before_the_service_ids(self, side: Side) -> None:
        book = Playbook(side)
        book.lose_link()
        book.expect()
        book.receive(service_ids("SSH1"))
        book.expect()
        assert book.session.service_ids == ()

    @BOTH
    def test_bytes_after_the_link_was_lost_are_not_looked_at(self, side: Side) -> None:
        book = ready(side, "SSH1")
        book.lose_link()
        book.receive("0003 ffffff")
        book.expect()


class TestProperties:
    """What the owner can ask."""

    @pytest.mark.parametrize("dialect", [V1, V2, V3])
    def test_the_dialect_is_the_one_given(self, dialect: Dialect) -> None:
        assert Session(Side.SOURCE, Playbook(Side.SOURCE), None, dialect).dialect is dialect

    def test_the_dialect_is_v3_by_default(self) -> None:
        assert Session(Side.SOURCE, Playbook(Side.SOURCE)).dialect is V3

    def test_service_ids_are_in_the_order_of_the_service(self) -> None:
        book = Playbook(Side.SOURCE, ("A", "B", "C"))
        book.receive(service_ids("C", "A", "B"))
        assert book.session.service_ids == ("C", "A", "B")

    def test_connections_and_counts(self) -> None:
        session = ready(Side.SOURCE, "A", "B").session
        opened = [session.open(name) for name in ("A", "B", "A")]
        assert set(session.connections) == set(opened)
        assert (session.count("A"), session.count("B"), session.count("C")) == (2, 1, 0)
        session.reset(opened[0])
        assert set(session.connections) == set(opened[1:])
        assert session.count("A") == 1

    def test_can_open(self) -> None:
        book = Playbook(Side.SOURCE, None, V2)
        session = book.session
        assert not session.can_open("A")
        book.receive(service_ids("A", "B"))
        assert (session.can_open("A"), session.can_open("C")) == (True, False)
        connection = session.open("A")
        assert (session.can_open("A"), session.can_open("B")) == (False, True)
        session.reset(connection)
        assert session.can_open("A")
        session.link_lost()
        assert not session.can_open("A")

    def test_heard_tells_whether_the_peer_has_answered(self) -> None:
        book = ready(Side.SOURCE, "SSH1")
        connection = book.session.open("SSH1")
        assert not connection.heard
        book.session.receive_frame(
            memoryview(bytes.fromhex("000e 0801 1001 22002a04 53534831 3801"))
        )
        assert connection.heard


class TestLocalMistakes:
    """Asking for what the protocol does not allow is an error of our own."""

    def test_only_a_source_opens(self) -> None:
        session = ready(Side.DESTINATION, "SSH1").session
        with pytest.raises(LocalProtocolError, match="only a source opens connections"):
            session.open("SSH1")

    @pytest.mark.parametrize("service_id", ["", "VNC"])
    def test_the_service_must_exist(self, service_id: str) -> None:
        session = ready(Side.SOURCE, "SSH1").session
        with pytest.raises(LocalProtocolError, match=f"service '{service_id}' cannot take"):
            session.open(service_id)

    def test_an_ended_connection_can_be_reset_and_refused_without_effect(self) -> None:
        book = ready(Side.DESTINATION, "SSH1")
        book.receive(message(MessageType.STREAM_START))
        (connection,) = book.requested
        book.session.reset(connection)
        sent = len(book.steps)
        book.session.reset(connection)
        book.session.refuse(connection)
        book.session.reset_all()
        assert len(book.steps) == sent


class TestReasons:
    """The log says why a message had no effect."""

    @pytest.mark.parametrize(
        ("side", "ignored", "reason"),
        [
            (Side.SOURCE, message(MessageType.DATA), "the stream is not open"),
            (Side.SOURCE, message(MessageType.DATA, 0), "stream id 0 is invalid"),
            (Side.SOURCE, message(MessageType.DATA, -5), "stream id -5 is invalid"),
            (Side.SOURCE, message(MessageType.DATA, 1, "VNC"), "the tunnel has no such service"),
            (
                Side.SOURCE,
                message(MessageType.STREAM_START),
                "a destination must not start streams",
            ),
            (
                Side.SOURCE,
                message(MessageType.CONNECTION_START),
                "a destination must not start connections",
            ),
            (Side.SOURCE, service_ids("SSH1"), "service ids announced again"),
            (Side.SOURCE, Message(99, ignorable=True), "unknown type, marked ignorable"),
        ],
    )
    def test_idle(self, side: Side, ignored: Message, reason: str) -> None:
        assert self.reason(ready(side, "SSH1"), ignored) == reason

    @pytest.mark.parametrize(
        ("ignored", "reason"),
        [
            (message(MessageType.DATA, 2), "stream 2 is not the current one"),
            (message(MessageType.DATA, 1, c=7), "connection 7 is not open"),
            (message(MessageType.STREAM_RESET, 2), "stream 2 is not the current one"),
            (message(MessageType.CONNECTION_RESET, 2), "stream 2 is not the current one"),
            (message(MessageType.CONNECTION_RESET, 1, c=7), "connection 7 is not open"),
            (message(MessageType.STREAM_START, 1), "the stream is already open"),
            (message(MessageType.CONNECTION_START, 2), "its stream is not the current one"),
            (message(MessageType.CONNECTION_START, 1), "the connection id is in use"),
        ],
    )
    def test_open(self, ignored: Message, reason: str) -> None:
        book = ready(Side.DESTINATION, "SSH1")
        book.receive(message(MessageType.STREAM_START))
        assert self.reason(book, ignored) == reason

    def test_reset(self) -> None:
        book = ready(Side.DESTINATION, "SSH1")
        book.receive(message(MessageType.STREAM_START))
        book.session.refuse(book.requested[0])
        late = message(MessageType.CONNECTION_START, c=2)
        assert self.reason(book, late) == "its stream has been reset"

    def reason(self, book: Playbook, ignored: Message) -> str:
        reasons: list[str] = []

        def note(event: Event) -> None:
            if isinstance(event, MessageIgnored):
                assert (event.type, event.service_id) == (ignored.type, ignored.service_id)
                reasons.append(event.reason)

        book.expect(*book.steps)
        book.react = note
        book.receive(ignored)
        (reason,) = reasons
        return reason


class TestErrors:
    """What ends the link says why."""

    @pytest.mark.parametrize(
        ("received", "text"),
        [
            (Message(99), "message type 99 is unknown and not ignorable"),
            (Message(0, 1), "message type 0 is unknown and not ignorable"),
            (service_ids("VNC"), "the service announced other service ids than before"),
        ],
    )
    def test_of_a_ready_session(self, received: Message, text: str) -> None:
        book = ready(Side.SOURCE, "SSH1")
        with pytest.raises(RemoteProtocolError) as caught:
            book.receive(received)
        assert str(caught.value) == text

    @pytest.mark.parametrize(
        ("received", "text"),
        [
            (message(MessageType.DATA), "a stream message came before the service ids"),
            (service_ids("A" * 129), "the service announced a service id longer than 128 bytes"),
        ],
    )
    def test_of_a_new_session(self, received: Message, text: str) -> None:
        book = Playbook(Side.DESTINATION)
        with pytest.raises(RemoteProtocolError) as caught:
            book.receive(received)
        assert str(caught.value) == text

    def test_v1_with_several_services_names_them(self) -> None:
        book = Playbook(Side.SOURCE, None, V1)
        with pytest.raises(ServiceIdMismatch) as caught:
            book.receive(service_ids("A", "B"))
        assert str(caught.value) == "a V1 peer carries one service, the tunnel has [A, B]"
        assert caught.value.setting == "dialect"
