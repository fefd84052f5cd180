"""The session's own surface: states, properties, errors and reasons.

What it does message by message stands in ``tests/session``.
"""

from __future__ import annotations

import pytest

from support.session.playbook import (
    RESUMABLE,
    Agreed,
    Ended,
    Ignored,
    Offered,
    Paused,
    Peer,
    Playbook,
    Ready,
    Resumed,
    Sent,
    Waits,
    joined,
    left,
    live,
    offer,
    offered,
    ready,
    service_ids,
)
from tailrace.errors import LocalProtocolError, RemoteProtocolError, ServiceIdMismatch
from tailrace.session import V1, V2, V3, Dialect, EndCause, MessageIgnored
from tailrace.session.events import Event
from tailrace.session.session import Session, SessionState
from tailrace.wire import FLOW, NO_CAPABILITIES, Message, MessageType, Side, decode

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


PEER_ENDED = Ended("SSH1", 1, 1, EndCause.PEER_CANNOT_RESUME)


class TestLinks:
    """A session that survives its link, and what it is without an agreement."""

    @BOTH
    def test_it_survives_where_offers_are_passed_on(self, side: Side) -> None:
        book = Playbook(side, resumes=True)
        assert book.session.capabilities == RESUMABLE
        assert book.session.survives
        book.session.capabilities = FLOW
        assert not book.session.survives
        assert not Playbook(side, may_pause=True).session.survives

    @BOTH
    def test_it_is_ready_when_both_have_agreed(self, side: Side) -> None:
        book = Playbook(side, resumes=True)
        seen = [book.session.state]
        book.receive(service_ids("SSH1"))
        book.forget()
        seen.append(book.session.state)
        book.receive(joined())
        book.expect(Peer(present=True))
        seen.append(book.session.state)
        book.receive(offer(names=1))
        seen.append(book.session.state)
        assert book.steps[0] == Offered(2)
        assert offered(book.steps[1]).peer_nonce == 1
        assert book.steps[2:] == [Agreed()]
        assert seen == [
            SessionState.AWAITING_SERVICE_IDS,
            SessionState.SUSPENDED,
            SessionState.SUSPENDED,
            SessionState.READY,
        ]

    @BOTH
    def test_presence_may_come_before_the_service_ids(self, side: Side) -> None:
        book = Playbook(side, resumes=True)
        book.receive(left())
        book.expect(Peer(present=False))
        assert book.session.state is SessionState.AWAITING_SERVICE_IDS
        book.receive(offer(names=1))
        book.expect(Ignored(MessageType.SESSION_OFFER))
        book.receive(service_ids("SSH1"))
        assert book.session.state is SessionState.READY
        book.forget()

    @BOTH
    def test_without_an_agreement_stream_messages_mean_nothing(self, side: Side) -> None:
        book = Playbook(side, resumes=True)
        book.receive(service_ids("SSH1"), joined())
        book.forget()
        book.receive(message(MessageType.STREAM_START))
        book.expect(Ignored(MessageType.STREAM_START, "SSH1"))

    def test_a_link_that_ends_before_its_service_ids(self) -> None:
        book = live(Side.SOURCE)
        book.open()
        book.forget()
        book.lose_link()
        book.forget()
        book.lose_link()
        book.expect()
        assert len(book.session.connections) == 1
        assert book.session.state is SessionState.AWAITING_SERVICE_IDS

    def test_a_message_that_the_cut_has_left_incomplete_is_gone(self) -> None:
        book = live(Side.SOURCE)
        book.receive("0005 0801")
        book.lose_link()
        book.expect()
        book.receive(service_ids("SSH1"))
        assert book.steps[-1] == Ready(("SSH1",))
        book.forget()

    def test_a_service_that_passes_no_offers_on(self) -> None:
        book = live(Side.SOURCE)
        book.open()
        book.forget()
        book.lose_link()
        book.forget()
        book.session.capabilities = FLOW
        book.receive(service_ids("SSH1"))
        book.expect(PEER_ENDED, Ready(("SSH1",)))
        book.receive(offer(names=1))
        book.expect(Ignored(MessageType.SESSION_OFFER))
        assert book.session.open("SSH1").ledger is None
        book.forget()
        book.lose_link()
        book.expect(Ended("SSH1", 2, 2, EndCause.LINK_LOST))
        assert book.session.closed

    @BOTH
    def test_more_service_ids_than_an_offer_holds(self, side: Side) -> None:
        names = [f"{number:0128d}" for number in range(460)]
        book = Playbook(side, resumes=True)
        with pytest.raises(RemoteProtocolError, match="more service ids than an offer holds"):
            book.receive(service_ids(*names))
        plain = Playbook(side, may_pause=True)
        plain.receive(service_ids(*names))
        plain.expect(Ready(tuple(names)))

    def test_connections_without_an_agreement_end_with_the_link(self) -> None:
        book = Playbook(Side.SOURCE, resumes=True)
        book.receive(service_ids("SSH1"), joined(FLOW))
        book.session.open("SSH1")
        book.forget()
        book.lose_link()
        book.expect(Ended("SSH1", 1, 1, EndCause.LINK_LOST))
        assert not book.session.closed


class TestPeers:
    """Whom a session has to do with, as the service tells."""

    @BOTH
    @pytest.mark.parametrize("waits", [False, True])
    def test_one_that_cannot_resume_ends_all_that_waits(self, side: Side, waits: bool) -> None:
        book = one_connection(side)
        if waits:
            book.receive(left())
            book.forget()
        book.receive(joined(FLOW))
        assert [step for step in book.steps if isinstance(step, Ended)] == [PEER_ENDED]
        assert book.session.state is SessionState.READY
        book.forget()
        # It cannot have sent this one.
        book.receive(offer(nonce=2, names=2))
        book.expect(Ignored(MessageType.SESSION_OFFER))

    @BOTH
    def test_the_same_one_told_again_changes_nothing(self, side: Side) -> None:
        book = one_connection(side)
        book.receive(joined())
        book.expect()
        assert book.session.state is SessionState.READY
        assert len(book.session.connections) == 1

    @BOTH
    def test_one_that_left_is_waited_for_until_that_is_given_up(self, side: Side) -> None:
        book = one_connection(side)
        book.receive(left())
        book.forget()
        assert book.session.state is SessionState.SUSPENDED
        book.session.give_up()
        book.expect(Ended("SSH1", 1, 1, EndCause.NOT_RESUMED))
        assert book.session.state is SessionState.READY

    @BOTH
    def test_without_connections_nobody_is_waited_for(self, side: Side) -> None:
        book = live(side)
        book.receive(left())
        book.expect(Peer(present=False))
        assert book.session.state is SessionState.READY

    @BOTH
    def test_giving_up_while_the_peer_is_there_awaits_its_agreement(self, side: Side) -> None:
        book = one_connection(side)
        book.receive_more(left(), joined())
        book.forget()
        book.session.give_up()
        book.expect(Ended("SSH1", 1, 1, EndCause.NOT_RESUMED))
        assert book.session.state is SessionState.SUSPENDED

    @BOTH
    def test_an_offer_may_come_before_its_sender_is_announced(self, side: Side) -> None:
        book = live(side)
        book.receive_more(left())
        book.receive_more(offer(nonce=2))
        assert book.session.state is SessionState.SUSPENDED
        book.receive_more(offer(nonce=2, names=2))
        book.forget()
        book.receive(joined())
        book.expect(Peer(present=True))
        assert book.session.state is SessionState.READY

    @BOTH
    def test_one_that_was_restarted_has_lost_all(self, side: Side) -> None:
        book = one_connection(side)
        book.receive(offer(sender=b"o" * 16))
        assert book.steps[1] == Ended("SSH1", 1, 1, EndCause.PEER_RESTARTED)
        assert book.session.state is SessionState.SUSPENDED
        book.forget()

    @BOTH
    def test_one_with_another_incarnation_agrees_anew(self, side: Side) -> None:
        book = one_connection(side)
        book.receive(offer(nonce=5))
        assert Paused("SSH1", 1, 1) in book.steps
        assert Waits(1) in book.steps
        book.forget()

    def opened_for_nobody(self, count: int = 1) -> Playbook:
        """A source that has opened connections before it was told of anybody."""
        book = Playbook(Side.SOURCE, resumes=True)
        book.receive(service_ids("SSH1"), left())
        for _ in range(count):
            book.session.open("SSH1")
        assert all(connection.is_paused for connection in book.session.connections)
        book.forget()
        return book

    def test_what_was_opened_for_nobody_is_opened_anew_for_who_comes_and_agrees(self) -> None:
        """The start may have reached it, and was passed over: it had not agreed yet."""
        book = self.opened_for_nobody(2)
        book.receive(joined())
        book.expect(Peer(present=True))
        book.receive(offer(names=2))
        sent = [decode(memoryview(s.frame)[2:]) for s in book.steps if isinstance(s, Sent)]
        assert [each for each in sent if not each.ignorable] == [
            Message(MessageType.STREAM_START, 1, "SSH1", 1),
            Message(MessageType.CONNECTION_START, 1, "SSH1", 2),
        ]
        assert [s for s in book.steps if isinstance(s, Resumed)][:2] == [
            Resumed("SSH1", 1, 1),
            Resumed("SSH1", 1, 2),
        ]
        for connection in book.session.connections:
            assert connection.ledger is not None
            assert not connection.is_paused
        book.forget()

    def test_and_goes_on_as_it_is_with_who_cannot_resume(self) -> None:
        book = self.opened_for_nobody()
        book.receive(joined(NO_CAPABILITIES))
        assert [step for step in book.steps if not isinstance(step, Sent)] == [
            Resumed("SSH1", 1, 1),
            Peer(present=True),
        ]
        (connection,) = book.session.connections
        assert connection.ledger is None
        assert not connection.is_paused
        book.forget()

    def test_and_ends_with_who_came_and_left(self) -> None:
        book = self.opened_for_nobody()
        book.receive(joined(), left())
        assert Ended("SSH1", 1, 1, EndCause.PEER_RESTARTED) in book.steps
        assert book.session.state is SessionState.READY
        book.forget()

    def test_or_with_the_link(self) -> None:
        book = self.opened_for_nobody()
        book.lose_link()
        book.expect(Ended("SSH1", 1, 1, EndCause.LINK_LOST))

    def test_who_has_agreed_speaks_v3(self) -> None:
        book = Playbook(Side.SOURCE, resumes=True)
        book.receive(service_ids("SSH1"), joined(FLOW))
        book.session.open("SSH1")
        book.receive_more(Message(MessageType.DATA, 1, "SSH1", 0, b"x"))
        assert book.session.dialect is V2
        book.receive_more(left(), joined())
        book.receive_more(offer(names=3))
        assert book.session.dialect is V3
        assert book.session.can_open("SSH1")

    @BOTH
    def test_an_offer_that_is_none_ends_the_link(self, side: Side) -> None:
        book = live(side)
        with pytest.raises(RemoteProtocolError):
            book.receive(Message(MessageType.SESSION_OFFER, payload=b"\x01", ignorable=True))
        book.forget()

    @BOTH
    def test_one_of_another_version_means_nothing(self, side: Side) -> None:
        book = live(side)
        book.receive(Message(MessageType.SESSION_OFFER, payload=b"\x09", ignorable=True))
        book.expect(Offered(0))
        assert book.session.state is SessionState.READY


def one_connection(side: Side) -> Playbook:
    """Return a session with one connection that outlives its link."""
    book = live(side)
    if side is Side.SOURCE:
        book.open()
    else:
        book.receive(message(MessageType.STREAM_START))
    book.forget()
    return book
