"""Ends that are none: what a session calls a failure, and what its resets tell about why."""

from __future__ import annotations

import pytest

from support.session.playbook import (
    Ended,
    Ignored,
    Learned,
    Peer,
    Playbook,
    Ready,
    Sent,
    ready,
    service_ids,
)
from tailrace.errors import RemoteProtocolError
from tailrace.session import V1, V2, V3, Dialect, EndCause
from tailrace.wire import Message, MessageType, Side, decode

DATA = MessageType.DATA
STREAM_START = MessageType.STREAM_START
STREAM_RESET = MessageType.STREAM_RESET
CONNECTION_START = MessageType.CONNECTION_START
CONNECTION_RESET = MessageType.CONNECTION_RESET
RESUME = Message(MessageType.CONNECTION_RESUME, 1, "SSH", 1, ignorable=True)

BOTH = pytest.mark.parametrize("side", list(Side))
BY_STREAM = "the peer or the service reset the stream"
UNANSWERED = "no destination is connected, or it could not reach its application"


def opened(
    side: Side, *, listens: bool = True, dialect: Dialect | None = None, heard: bool = False
) -> Playbook:
    """Return a session with one open connection."""
    book = ready(side, "SSH", dialect=dialect, may_pause=listens)
    number = 0 if dialect in (V1, V2) else 1
    name = "" if dialect is V1 else "SSH"
    if side is Side.SOURCE:
        book.open("SSH")
    else:
        book.receive(Message(STREAM_START, 1, name, number))
    if listens:
        book.receive_more(RESUME._replace(service_id=name, connection_id=number))
    if heard:
        book.receive_more(Message(DATA, 1, name, number, b"hello"))
    book.forget()
    return book


def failures(book: Playbook) -> list[str]:
    """Return why each connection that has ended did; empty texts for ends in order."""
    found = [step.failure for step in book.steps if isinstance(step, Ended)]
    book.forget()
    return found


def told(book: Playbook) -> list[tuple[int, bytes]]:
    """Return type and payload of each message sent."""
    messages = [decode(memoryview(s.frame)[2:]) for s in book.steps if isinstance(s, Sent)]
    book.forget()
    return [(m.type, bytes(m.payload)) for m in messages]


class TestEndings:
    """What an end means, by its cause."""

    @BOTH
    def test_a_connection_reset_is_an_end(self, side: Side) -> None:
        """The guides have one message for an end of file and for a failure."""
        book = opened(side, listens=False, heard=True)
        book.receive(Message(CONNECTION_RESET, 1, "SSH", 1))
        assert failures(book) == [""]

    @BOTH
    @pytest.mark.parametrize("dialect", [V1, V2])
    def test_a_stream_reset_is_an_end_where_there_is_no_other(
        self, side: Side, dialect: Dialect
    ) -> None:
        book = opened(side, listens=False, dialect=dialect)
        name = "" if dialect is V1 else "SSH"
        book.receive(Message(STREAM_RESET, 1, name))
        assert failures(book) == [""]

    @BOTH
    def test_a_stream_reset_is_a_failure_where_connections_have_ids(self, side: Side) -> None:
        book = opened(side, listens=False, heard=True)
        book.receive(Message(STREAM_RESET, 1, "SSH"))
        assert failures(book) == [BY_STREAM]

    @pytest.mark.parametrize("dialect", [None, V3])
    def test_an_unanswered_start_names_what_it_may_be(self, dialect: Dialect | None) -> None:
        book = opened(Side.SOURCE, listens=False, dialect=dialect)
        book.receive(Message(STREAM_RESET, 1, "SSH", 1))
        assert failures(book) == [UNANSWERED]

    @pytest.mark.parametrize("learned", [V1, V2])
    def test_a_peer_that_was_learned_ends_in_order(self, learned: Dialect) -> None:
        book = opened(Side.SOURCE, listens=False)
        name = "" if learned is V1 else "SSH"
        book.receive(Message(DATA, 1, name, 0, b"hello"), Message(STREAM_RESET, 1, name))
        assert failures(book) == [""]

    def test_a_v1_peer_is_known_by_its_first_reset(self) -> None:
        """It has sent nothing, and leaves the service id out as no other peer does."""
        book = opened(Side.SOURCE, listens=False)
        book.receive(Message(STREAM_RESET, 1))
        assert Learned(V1) in book.steps
        assert failures(book) == [""]

    @BOTH
    @pytest.mark.parametrize("cause", [EndCause.LINK_LOST, EndCause.TUNNEL_ENDED])
    @pytest.mark.parametrize("dialect", [V1, V2, None])
    def test_a_lost_link_is_a_failure_in_every_dialect(
        self, side: Side, dialect: Dialect | None, cause: EndCause
    ) -> None:
        book = opened(side, listens=False, dialect=dialect)
        book.session.link_lost(cause)
        assert failures(book) == [cause.value]

    @BOTH
    def test_a_session_reset_is_a_failure(self, side: Side) -> None:
        book = opened(side, dialect=V2)
        book.receive(Message(MessageType.SESSION_RESET))
        assert failures(book) == ["the service reset the session"]

    @BOTH
    def test_a_broken_protocol_is_a_failure(self, side: Side) -> None:
        book = opened(side)
        book.receive(Message(CONNECTION_START, 1, "SSH", 1))
        assert failures(book) == ["the peer broke the protocol"]

    @pytest.mark.parametrize(("number", "failure"), [(0, ""), (1, "the peer started a new stream")])
    def test_a_stream_that_another_takes_the_place_of(self, number: int, failure: str) -> None:
        book = opened(Side.DESTINATION, dialect=None if number else V2)
        book.receive(Message(STREAM_START, 2, "SSH", number))
        assert failures(book) == [failure]


class TestWords:
    """A reset may say why, between two ends and a service of this project."""

    @BOTH
    @pytest.mark.parametrize("kind", [STREAM_RESET, CONNECTION_RESET])
    def test_a_reset_that_says_why_is_a_failure(self, side: Side, kind: int) -> None:
        book = opened(side, heard=True)
        book.receive(Message(kind, 1, "SSH", 1, b"the application reset the connection"))
        assert failures(book) == ["the application reset the connection"]

    @BOTH
    def test_also_without_connection_ids(self, side: Side) -> None:
        book = opened(side, dialect=V2)
        book.receive(Message(STREAM_RESET, 1, "SSH", 0, b"the source has left"))
        assert failures(book) == ["the source has left"]

    @BOTH
    def test_through_another_service_a_payload_means_nothing(self, side: Side) -> None:
        book = opened(side, listens=False)
        book.receive(Message(CONNECTION_RESET, 1, "SSH", 1, b"whatever this is"))
        assert failures(book) == [""]

    def test_words_are_cut_and_stay_on_their_line(self) -> None:
        book = opened(Side.SOURCE)
        words = b"a\n\x1b[2J\xff\xe2\x80\xae" + b"b" * 64_000
        book.receive(Message(CONNECTION_RESET, 1, "SSH", 1, words))
        (failure,) = failures(book)
        assert failure.startswith("a??[2J")
        assert failure.isprintable()
        assert len(failure) <= 200

    @BOTH
    def test_a_peer_that_listens_is_told(self, side: Side) -> None:
        book = opened(side)
        (connection,) = book.session.connections
        book.reset(connection, "it broke")
        assert told(book) == [(CONNECTION_RESET, b"it broke")]

    def test_an_end_in_order_has_no_words(self) -> None:
        book = opened(Side.SOURCE)
        (connection,) = book.session.connections
        book.reset(connection)
        assert told(book) == [(CONNECTION_RESET, b"")]

    @BOTH
    def test_no_other_peer_is_told(self, side: Side) -> None:
        for listens, dialect in ((False, None), (False, V2)):
            book = opened(side, listens=listens, dialect=dialect)
            (connection,) = book.session.connections
            book.reset(connection, "it broke")
            assert [words for _, words in told(book)] == [b""]

    def test_a_refusal_says_why(self) -> None:
        book = opened(Side.DESTINATION)
        book.receive_more(Message(CONNECTION_START, 1, "SSH", 2))
        book.forget()
        first, second = book.requested
        book.refuse(second, "the destination could not reach localhost:22 (refused)")
        assert told(book) == [
            (CONNECTION_RESET, b"the destination could not reach localhost:22 (refused)")
        ]
        book.refuse(first, "again")
        assert told(book) == [(STREAM_RESET, b"again")]

    def test_words_without_ids_and_too_long_ones(self) -> None:
        book = opened(Side.DESTINATION, dialect=V2)
        (connection,) = book.requested
        book.reset(connection, "ä" * 300)
        assert told(book) == [(STREAM_RESET, "ä".encode() * 100)]

    def test_all_connections_are_told(self) -> None:
        book = opened(Side.SOURCE)
        book.open("SSH")
        book.forget()
        book.session.reset_all("the source has been stopped")
        assert told(book) == [(CONNECTION_RESET, b"the source has been stopped")] * 2


def test_what_the_words_are_about_is_over() -> None:
    """A second reset finds nothing, whatever it says."""
    book = opened(Side.SOURCE)
    why = Message(CONNECTION_RESET, 1, "SSH", 1, b"it broke")
    book.receive(why, why)
    assert Ignored(CONNECTION_RESET, "SSH") in book.steps
    assert failures(book) == ["it broke"]


class TestPeer:
    """What a service of this project tells about the other side of the tunnel."""

    JOINED = Message(MessageType.PEER_JOINED, payload=b"1", ignorable=True)
    STRANGER = Message(MessageType.PEER_JOINED, ignorable=True)
    LEFT = Message(MessageType.PEER_LEFT, ignorable=True)

    @BOTH
    def test_a_change_is_told_once(self, side: Side) -> None:
        book = Playbook(side, may_pause=True)
        book.receive(self.LEFT, service_ids("SSH"), self.LEFT)
        book.expect(Peer(False), Ready(("SSH",)))
        book.receive(self.JOINED, self.STRANGER, self.LEFT, self.LEFT)
        book.expect(Peer(True), Peer(False))

    @BOTH
    def test_a_foreign_service_cannot_tell(self, side: Side) -> None:
        book = ready(side, "SSH")
        book.receive(self.JOINED, self.LEFT)
        book.expect(Ignored(MessageType.PEER_JOINED), Ignored(MessageType.PEER_LEFT))

    @BOTH
    def test_one_that_is_not_ignorable_ends_the_link(self, side: Side) -> None:
        book = ready(side, "SSH", may_pause=True)
        with pytest.raises(RemoteProtocolError, match="type 1003 is not marked ignorable"):
            book.receive(self.JOINED._replace(ignorable=False))

    @pytest.mark.parametrize(
        ("who", "words"), [(JOINED, b"it broke"), (STRANGER, b""), (LEFT, b"")]
    )
    @BOTH
    def test_a_stream_begins_with_what_is_known_of_the_peer(
        self, side: Side, who: Message, words: bytes
    ) -> None:
        """A refusal may be quicker than the peer's first flow message."""
        book = ready(side, "SSH", may_pause=True)
        book.receive_more(self.JOINED, who)
        book.forget()
        if side is Side.SOURCE:
            book.open("SSH")
        else:
            book.receive_more(Message(STREAM_START, 1, "SSH", 1))
        book.forget()
        (connection,) = book.session.connections
        assert connection.can_pause is bool(words)
        book.reset(connection, "it broke")
        assert told(book) == [(CONNECTION_RESET, words)]
