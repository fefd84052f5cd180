"""The books of connections, kept by messages: what is acknowledged, ended, suspended, resumed."""

from __future__ import annotations

import pytest

from support.session.books import payload_of, send
from support.session.playbook import (
    Agreed,
    Ended,
    Finished,
    Ignored,
    Offered,
    Paused,
    Peer,
    Playbook,
    Ready,
    Requested,
    Resumed,
    Sent,
    Waits,
    joined,
    left,
    live,
    offer,
    offered,
    place,
    service_ids,
)
from tailrace.session import Connection, EndCause, Event, Ledger
from tailrace.session.ledger import FIRST_LIMIT
from tailrace.wire import (
    Message,
    MessageType,
    Progress,
    Side,
    decode,
    encode_fin,
    encode_progress,
)

FAILURE = b"the peer broke the protocol"
START_1 = Message(MessageType.STREAM_START, 1, "SSH1", 1)
RESET_1 = Message(MessageType.CONNECTION_RESET, 1, "SSH1", 1)


def start(number: int) -> Message:
    kind = MessageType.STREAM_START if number == 1 else MessageType.CONNECTION_START
    return Message(kind, 1, "SSH1", number)


def ack(received: int, limit: int = FIRST_LIMIT, *, fin_seen: bool = False) -> Message:
    payload = encode_progress(Progress(received, limit, fin_seen))
    return Message(MessageType.CONNECTION_ACK, 1, "SSH1", 1, payload, ignorable=True)


def fin(offset: int) -> Message:
    payload = encode_fin(offset)
    return Message(MessageType.CONNECTION_FIN, 1, "SSH1", 1, payload, ignorable=True)


def data(payload: bytes, number: int = 1) -> Message:
    return Message(MessageType.DATA, 1, "SSH1", number, payload)


def source() -> tuple[Playbook, Connection, Ledger]:
    """Return a source with one connection that outlives its link."""
    book = live(Side.SOURCE)
    connection = book.open()
    book.expect(START_1)
    assert connection.ledger is not None
    return book, connection, connection.ledger


def destination() -> tuple[Playbook, Connection, Ledger]:
    """Return a destination with one connection that outlives its link."""
    book = live(Side.DESTINATION)
    book.receive(START_1)
    book.expect(Requested("SSH1", 1, 1))
    (connection,) = book.requested
    assert connection.ledger is not None
    return book, connection, connection.ledger


class TestAcknowledgements:
    """What is received, and how much may be sent."""

    def test_one_lets_more_be_sent(self) -> None:
        book, connection, ledger = source()
        send(ledger, bytes(FIRST_LIMIT))
        book.receive(ack(FIRST_LIMIT, 2 * FIRST_LIMIT))
        book.expect(Resumed("SSH1", 1, 1))
        assert (ledger.kept, ledger.limit) == (0, 2 * FIRST_LIMIT)
        assert not connection.is_paused

    def test_one_that_allows_nothing_more_resumes_nothing(self) -> None:
        book, _, ledger = source()
        send(ledger, bytes(FIRST_LIMIT))
        book.receive(ack(10))
        book.expect()

    def test_one_that_comes_before_the_limit_is_reached_resumes_nothing(self) -> None:
        book, _, ledger = source()
        send(ledger, bytes(10))
        book.receive(ack(10, 2 * FIRST_LIMIT))
        book.expect()

    def test_what_has_to_be_sent_again_is_under_way_to_its_turn(self) -> None:
        book, _, ledger = source()
        send(ledger, bytes(FIRST_LIMIT))
        ledger.unsent = FIRST_LIMIT - 10
        book.receive(ack(10, FIRST_LIMIT + 10))
        book.expect()

    def test_a_peer_that_reads_nothing_is_sent_nothing(self) -> None:
        book, _, ledger = source()
        send(ledger, bytes(FIRST_LIMIT))
        book.receive(Message(MessageType.CONNECTION_PAUSE, 1, "SSH1", 1, ignorable=True))
        book.expect(Paused("SSH1", 1, 1))
        book.receive(ack(FIRST_LIMIT, 2 * FIRST_LIMIT))
        book.expect()

    @pytest.mark.parametrize("payload", [b"", encode_progress(Progress(7, 9, fin_seen=False))])
    def test_one_that_cannot_be_breaks_the_connection(self, payload: bytes) -> None:
        book, _, _ = source()
        book.receive(Message(MessageType.CONNECTION_ACK, 1, "SSH1", 1, payload, ignorable=True))
        book.expect(RESET_1._replace(payload=FAILURE), Ended("SSH1", 1, 1, EndCause.PROTOCOL_ERROR))

    def test_a_mark_acknowledges_and_widens(self) -> None:
        book, connection, ledger = destination()
        half = FIRST_LIMIT // 2
        ledger.received = half - 1
        book.session.mark_reached(connection)
        book.expect()
        ledger.received = half
        book.session.mark_reached(connection)
        # Twice the window from here.
        book.expect(ack(half, half + 2 * FIRST_LIMIT))

    def test_a_mark_of_more_than_was_allowed_breaks_the_connection(self) -> None:
        book, connection, ledger = destination()
        ledger.received = FIRST_LIMIT + 1
        book.session.mark_reached(connection)
        book.expect(RESET_1._replace(payload=FAILURE), Ended("SSH1", 1, 1, EndCause.PROTOCOL_ERROR))
        book.session.mark_reached(connection)
        book.session.settle(connection)
        book.session.finish(connection)
        book.expect()

    def test_in_time_all_is_acknowledged(self) -> None:
        book, connection, ledger = destination()
        ledger.received = 1
        book.session.mark_reached(connection)
        book.expect()
        assert book.session.acknowledge([connection]) == [connection]
        book.expect(ack(1, FIRST_LIMIT + 1))
        assert not book.session.acknowledge([connection])
        assert not book.session.acknowledge([connection])
        book.expect()
        book.session.reset(connection)
        book.forget()
        assert not book.session.acknowledge([connection])
        book.expect()

    def test_where_nothing_outlives_its_link_nothing_is_acknowledged(self) -> None:
        book = Playbook(Side.SOURCE)
        book.receive(service_ids("SSH1"))
        book.expect(Ready(("SSH1",)))
        connection = book.open()
        book.expect(START_1)
        assert book.session.acknowledge([connection]) == []
        book.expect()


class TestHalves:
    """Each direction ends by itself."""

    def test_a_connection_ends_in_order(self) -> None:
        book, connection, ledger = source()
        send(ledger, bytes(5))
        book.session.finish(connection)
        book.expect(fin(5))
        book.receive(ack(5, fin_seen=True))
        book.expect()
        book.receive(fin(0))
        book.expect(
            Finished("SSH1", 1, 1),
            ack(0, fin_seen=True),
            Ended("SSH1", 1, 1, EndCause.COMPLETED),
        )
        assert book.session.connections == []

    def test_it_ends_with_the_last_acknowledgement(self) -> None:
        book, connection, _ = destination()
        book.receive(fin(0))
        book.expect(Finished("SSH1", 1, 1), ack(0, fin_seen=True))
        book.session.finish(connection)
        book.expect(fin(0))
        book.receive(ack(0, fin_seen=True))
        book.expect(Ended("SSH1", 1, 1, EndCause.COMPLETED))

    def test_the_peer_may_be_answered_with_a_reset_at_once(self) -> None:
        book, connection, _ = destination()

        def reset(event: Event) -> None:
            book.session.reset(connection)

        book.react = reset
        book.receive(fin(0))
        book.expect(Finished("SSH1", 1, 1), RESET_1)

    @pytest.mark.parametrize("end", [[fin(3)], [fin(0), fin(0)]])
    def test_an_end_that_cannot_be_breaks_the_connection(self, end: list[Message]) -> None:
        book, _, _ = destination()
        book.receive(*end)
        assert book.steps[-1] == Ended("SSH1", 1, 1, EndCause.PROTOCOL_ERROR)

    def test_nothing_of_all_this_is_for_a_connection_that_ends_with_its_link(self) -> None:
        book = Playbook(Side.SOURCE, may_pause=True)
        book.receive(service_ids("SSH1"))
        connection = book.session.open("SSH1")
        book.forget()
        book.session.finish(connection)
        book.session.settle(connection)
        book.session.mark_reached(connection)
        book.session.give_up()
        book.expect()
        book.receive(ack(0), fin(0))
        book.expect(
            Ignored(MessageType.CONNECTION_ACK, "SSH1"), Ignored(MessageType.CONNECTION_FIN, "SSH1")
        )


class TestSuspended:
    """Without an agreement nothing is sent, and all is kept."""

    def test_a_source_goes_on_with_the_next_link(self) -> None:
        book, connection, ledger = source()
        send(ledger, bytes(10))
        book.lose_link()
        book.expect(Paused("SSH1", 1, 1), Waits(1))
        assert connection.is_awaited
        book.session.finish(connection)
        book.session.pause(connection)
        book.expect()
        book.receive(service_ids("SSH1"), joined())
        first, ready, peer = book.steps
        assert offered(first).places == (place(1),)
        assert (ready, peer) == (Ready(("SSH1",)), Peer(present=True))
        book.forget()
        book.receive(offer(place(1, 4), nonce=2, highest=1, names=2))
        assert offered(book.steps[1]).peer_nonce == 2
        assert [step for step in book.steps if not isinstance(step, Sent)] == [
            Offered(4),
            Agreed(1, 6),
            Resumed("SSH1", 1, 1),
        ]
        sent = [step for step in book.steps[2:] if isinstance(step, Sent)]
        assert [decode(step.frame[2:])[:4] for step in sent] == [
            START_1[:4],
            ack(0)[:4],
        ]
        # The end follows what has to be sent again.
        book.forget()
        assert payload_of(ledger.next_unsent(100)) == bytes(6)
        book.session.settle(connection)
        book.expect(fin(10))

    def test_a_destination_goes_on_with_the_start(self) -> None:
        book, connection, _ = destination()
        book.receive(data(b"before"))
        book.forget()
        connection.counts.received = 6
        book.lose_link()
        book.receive_more(service_ids("SSH1"), joined())
        book.receive_more(offer(place(1), nonce=2, highest=1, names=2))
        assert Agreed(1, 0) in book.steps
        assert Resumed("SSH1", 1, 1) not in book.steps
        book.forget()
        book.receive(data(b"stale"))
        book.expect(Ignored(MessageType.DATA, "SSH1"))
        book.receive(START_1)
        book.expect(Resumed("SSH1", 1, 1), ack(6, FIRST_LIMIT + 6))
        assert connection.heard
        book.receive(START_1)
        book.expect(Ignored(MessageType.STREAM_START, "SSH1"))

    def test_one_that_is_paused_is_not_paused_again(self) -> None:
        book, connection, _ = source()
        book.receive(Message(MessageType.CONNECTION_PAUSE, 1, "SSH1", 1, ignorable=True))
        book.session.pause(connection)
        book.forget()
        book.lose_link()
        book.expect(Waits(1))
        # It is asked for again when the peer sends too much again.
        book.session.resume(connection)
        book.expect()

    def test_that_they_wait_is_told_once(self) -> None:
        book, _, _ = source()
        book.receive(left())
        book.expect(Paused("SSH1", 1, 1), Waits(1), Peer(present=False))
        book.lose_link()
        book.expect()
        book.receive_more(service_ids("SSH1"), left())
        assert not any(isinstance(step, Waits) for step in book.steps)

    def test_what_ends_while_others_go_on_does_not_go_on(self) -> None:
        book, first, _ = source()
        second = book.open()
        book.forget()
        book.lose_link()
        book.receive_more(service_ids("SSH1"), joined())
        book.forget()

        def reset(event: Event) -> None:
            if first.is_open and not first.is_awaited:
                book.session.reset(second)

        book.react = reset
        book.receive_more(offer(place(1), place(2), nonce=2, highest=2, names=2))
        assert Resumed("SSH1", 1, 2) not in book.steps
        assert not second.is_open

    def test_one_that_ends_here_meanwhile_is_told_in_the_agreement(self) -> None:
        book, connection, _ = source()
        book.lose_link()
        book.receive_more(service_ids("SSH1"), joined())
        book.session.reset(connection)
        book.forget()
        book.receive_more(offer(place(1), nonce=2, highest=1, names=2))
        sent = [step for step in book.steps if isinstance(step, Sent)]
        assert [decode(step.frame[2:])[:4] for step in sent[1:]] == [START_1[:4], RESET_1[:4]]
