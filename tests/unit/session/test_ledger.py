"""The books of one connection: limits, acknowledgements, ends, and what a peer may not say."""

from __future__ import annotations

import pytest

from support.session.books import payload_of, send, take
from tailrace.errors import RemoteProtocolError
from tailrace.session.ledger import FIRST_LIMIT, MAX_WINDOW, UNLIMITED, Counts, Ledger, SendingHalf
from tailrace.session.replay import LARGE, MAX_KEPT, ReplayMemory
from tailrace.wire import MAX_PAYLOAD, Place, Progress

HALF = FIRST_LIMIT // 2


def new(service_id: str = "SSH") -> Ledger:
    return Ledger(service_id, 1, 2, ReplayMemory())


def begun() -> Ledger:
    ledger = new()
    assert not ledger.is_open
    ledger.begin()
    assert ledger.is_open
    return ledger


def resumed(data: bytes, received: int = 0) -> Ledger:
    """Return books of a connection that has sent ``data``, and goes on from where the peer is."""
    ledger = begun()
    send(ledger, data)
    ledger.suspend()
    ledger.go_on(said(received))
    ledger.begin()
    return ledger


def receive(ledger: Ledger, size: int, *, waiting: bool = True) -> None:
    ledger.received += size
    if waiting:
        ledger.waiting += size


def said(received: int, limit: int = FIRST_LIMIT, *, fin_seen: bool = False) -> Progress:
    return Progress(received, limit, fin_seen)


def test_what_ends_with_its_link_is_only_counted() -> None:
    counts = Counts()
    assert (counts.sent, counts.received, counts.waiting) == (0, 0, 0)
    assert counts.ack_at == UNLIMITED
    assert take(counts, MAX_PAYLOAD) == MAX_PAYLOAD
    assert take(counts, 5) == 5
    assert counts.sent == MAX_PAYLOAD + 5


class TestSending:
    """Up to a limit, kept until it is acknowledged, and ended once."""

    def test_what_is_acknowledged_is_not_kept(self) -> None:
        ledger = begun()
        assert (ledger.sent, ledger.limit) == (0, FIRST_LIMIT)
        send(ledger, bytes(100))
        assert (ledger.sent, ledger.kept, ledger.unsent) == (100, 100, 0)
        ledger.acknowledged(said(60, FIRST_LIMIT + 10))
        assert (ledger.limit, ledger.kept) == (FIRST_LIMIT + 10, 40)

    def test_a_limit_is_not_taken_back(self) -> None:
        ledger = begun()
        send(ledger, bytes(100))
        ledger.acknowledged(said(100, 100))
        assert ledger.limit == FIRST_LIMIT

    def test_a_limit_is_never_further_ahead_than_the_largest_window(self) -> None:
        ledger = begun()
        send(ledger, bytes(100))
        ledger.acknowledged(said(100, 1 << 63))
        assert ledger.limit == 100 + MAX_WINDOW

    def test_no_more_may_be_sent_than_the_limit(self) -> None:
        ledger = begun()
        send(ledger, bytes(FIRST_LIMIT - 10))
        assert take(ledger, MAX_PAYLOAD) == 10
        assert take(ledger, 1) == 0
        assert ledger.sent == FIRST_LIMIT

    def test_small_messages_are_counted_when_their_share_is_used_up(self) -> None:
        ledger = begun()
        memory = ledger.replay.memory
        for _ in range(2):
            send(ledger, b"the first one")
            assert ledger.small_room == memory.promised - len(ledger.replay.tail) > 0
            promised = memory.promised
            while ledger.small_room >= 2048:
                send(ledger, bytes(1024))
            assert (memory.size, memory.promised) == (0, promised)
            send(ledger, bytes(2048))
            assert memory.size > promised
            assert ledger.small_room == memory.promised
            ledger.acknowledged(said(ledger.sent))
            assert (ledger.small_room, memory.promised, memory.size) == (0, 0, 0)

    def test_large_messages_use_up_no_share(self) -> None:
        ledger = begun()
        send(ledger, b"small")
        assert 0 < ledger.small_room < ledger.replay.memory.promised
        send(ledger, bytes(LARGE))
        assert ledger.small_room == ledger.replay.memory.promised

    def test_nothing_may_be_sent_behind_the_end(self) -> None:
        ledger = begun()
        ledger.end()
        assert take(ledger, 1) == 0
        ledger.acknowledged(said(0, FIRST_LIMIT + 10))
        assert take(ledger, 1) == 0

    @pytest.mark.parametrize(
        "progress",
        [
            said(9),  # acknowledged before
            said(31),  # recorded, but not sent
            said(30, fin_seen=True),  # not ended
        ],
    )
    def test_what_cannot_be_acknowledged(self, progress: Progress) -> None:
        ledger = resumed(bytes(30) + b"later", 10)
        ledger.next_unsent(20)
        ledger.unsent = 5  # it has sent 20 bytes of a message of 25
        with pytest.raises(RemoteProtocolError, match="acknowledged"):
            ledger.acknowledged(progress)

    def test_the_end_is_told_behind_everything_else(self) -> None:
        ledger = resumed(b"last")
        ledger.end()
        ledger.end()
        assert not ledger.fin_is_due
        assert payload_of(ledger.next_unsent(10)) == b"last"
        assert ledger.fin_is_due
        ledger.fin_sent()
        assert not ledger.fin_is_due
        ledger.end()
        assert ledger.half is SendingHalf.TOLD
        with pytest.raises(RemoteProtocolError, match="an end acknowledged"):
            ledger.acknowledged(said(3, fin_seen=True))
        ledger.acknowledged(said(4, fin_seen=True))
        assert ledger.half is SendingHalf.ACKNOWLEDGED

    def test_no_end_is_told_without_an_agreement(self) -> None:
        ledger = new()
        ledger.end()
        assert not ledger.fin_is_due


class TestReceiving:
    """Acknowledged at marks, and never more than was allowed."""

    def test_an_acknowledgement_is_due_for_half_a_window(self) -> None:
        ledger = begun()
        assert ledger.ack_at == 1
        receive(ledger, 1)
        ledger.mark_reached()
        assert ledger.ack_at == HALF
        receive(ledger, HALF - 2)
        assert not ledger.acknowledgement_is_due
        receive(ledger, 1)
        assert ledger.acknowledgement_is_due
        assert ledger.progress == said(HALF)
        ledger.progress_told()
        assert not ledger.acknowledgement_is_due
        # Nothing more comes, but the local end takes what has come.
        ledger.waiting = 1
        assert not ledger.acknowledgement_is_due
        ledger.waiting = 0
        assert ledger.acknowledgement_is_due
        assert ledger.progress == said(HALF, FIRST_LIMIT + HALF)
        ledger.suspend()
        assert not ledger.acknowledgement_is_due

    def test_one_for_which_more_and_more_comes_is_looked_at_at_marks_only(self) -> None:
        ledger = begun()
        receive(ledger, 1)
        ledger.mark_reached()
        receive(ledger, HALF - 1)
        assert ledger.has_news
        ledger.progress_told()
        assert not ledger.has_news
        assert ledger.owes
        assert ledger.ack_at == 2 * HALF
        ledger.owe_nothing()
        assert not ledger.owes
        assert ledger.ack_at == HALF + 1

    def test_one_that_goes_on_owes_nothing(self) -> None:
        ledger = begun()
        receive(ledger, 1)
        ledger.mark_reached()
        ledger.suspend()
        ledger.go_on(said(0))
        assert not ledger.owes
        assert ledger.replay.memory.owing == 0
        assert ledger.ack_at == 2

    def test_marks_are_never_behind_the_limit(self) -> None:
        ledger = begun()
        receive(ledger, FIRST_LIMIT - 10)
        ledger.progress_told()
        receive(ledger, 1)
        ledger.mark_reached()
        assert ledger.ack_at == FIRST_LIMIT + 1

    def test_the_window_doubles_for_an_end_that_keeps_up(self) -> None:
        ledger = begun()
        windows = []
        for _ in range(7):
            for _ in range(2):
                receive(ledger, ledger.ack_at - ledger.received, waiting=False)
                ledger.mark_reached()
            ledger.widen()
            ledger.progress_told()
            windows.append(ledger.window // FIRST_LIMIT)
        assert windows == [2, 4, 8, 16, 32, 32, 32]
        assert ledger.window == MAX_WINDOW

    def test_many_at_work_share_what_may_be_kept(self) -> None:
        ledger = begun()
        ledger.replay.memory.owing = 40
        for _ in range(7):
            for _ in range(2):
                receive(ledger, ledger.ack_at - ledger.received, waiting=False)
                ledger.mark_reached()
            ledger.widen()
            ledger.progress_told()
        assert FIRST_LIMIT < ledger.window <= MAX_KEPT // 40
        ledger.replay.memory.owing = 1000
        receive(ledger, ledger.window, waiting=False)
        ledger.widen()
        assert ledger.window > FIRST_LIMIT

    def test_the_window_stays_for_one_that_does_not(self) -> None:
        ledger = begun()
        receive(ledger, HALF)
        ledger.widen()
        assert ledger.window == FIRST_LIMIT

    def test_the_window_does_not_double_before_half_of_it_has_come(self) -> None:
        ledger = begun()
        receive(ledger, HALF - 1, waiting=False)
        ledger.widen()
        assert ledger.window == FIRST_LIMIT

    def test_many_connections_acknowledge_more_often(self) -> None:
        ledger = begun()
        receive(ledger, 60_000)
        ledger.mark_reached()
        assert not ledger.acknowledgement_is_due
        ledger.replay.memory.owing = 200
        ledger.mark_reached()
        assert ledger.ack_at == MAX_KEPT // 3 // 200
        assert ledger.acknowledgement_is_due

    def test_more_than_was_allowed(self) -> None:
        ledger = begun()
        receive(ledger, FIRST_LIMIT)
        ledger.mark_reached()
        receive(ledger, 1)
        with pytest.raises(RemoteProtocolError, match="more bytes than were allowed"):
            ledger.mark_reached()

    def test_the_end_is_where_the_last_byte_was(self) -> None:
        ledger = begun()
        receive(ledger, 6)
        with pytest.raises(RemoteProtocolError, match="an end at 5, not at 6"):
            ledger.fin_arrived(5)
        ledger.fin_arrived(6)
        with pytest.raises(RemoteProtocolError):
            ledger.fin_arrived(6)

    def test_behind_the_end_all_is_looked_at_and_refused(self) -> None:
        ledger = begun()
        ledger.fin_arrived(0)
        ledger.progress_told()
        assert ledger.ack_at == 0
        receive(ledger, 1)
        with pytest.raises(RemoteProtocolError):
            ledger.mark_reached()


class TestBothWays:
    """When a connection is over, and how it goes on."""

    def test_it_is_over_when_both_ends_know_that_everything_has_come(self) -> None:
        ledger = begun()
        ledger.fin_arrived(0)
        assert ledger.acknowledgement_is_due
        assert not ledger.may_be_over
        ledger.end()
        assert ledger.may_be_over
        assert not ledger.is_complete
        ledger.fin_sent()
        ledger.acknowledged(said(0, fin_seen=True))
        assert ledger.is_complete
        assert not ledger.is_over
        ledger.progress_told()
        assert ledger.is_over

    def test_it_goes_on_where_the_peer_stands(self) -> None:
        ledger = begun()
        for data in (b"0123", b"4567", b"89"):
            send(ledger, data)
        ledger.end()
        ledger.fin_sent()
        ledger.suspend()
        ledger.go_on(said(5))
        ledger.begin()
        assert ledger.acknowledgement_is_due
        assert not ledger.fin_is_due
        again = b""
        while ledger.unsent:
            again += payload_of(ledger.next_unsent(4))
        assert again == b"56789"
        assert ledger.fin_is_due

    def test_it_begins_again_where_the_peer_has_not_heard_of_it(self) -> None:
        ledger = begun()
        send(ledger, bytes(5))
        ledger.suspend()
        ledger.go_on(None)
        assert ledger.unsent == 5
        assert ledger.half is SendingHalf.OPEN

    def test_one_that_is_closed_keeps_nothing(self) -> None:
        ledger = resumed(bytes(5))
        memory = ledger.replay.memory
        assert memory.size
        receive(ledger, 1)
        ledger.mark_reached()
        assert memory.promised
        assert memory.owing == 1
        ledger.close()
        assert not ledger.is_open
        assert (ledger.unsent, memory.size, memory.promised, memory.owing) == (0, 0, 0, 0)

    def test_its_place_and_its_name(self) -> None:
        ledger = begun()
        receive(ledger, 7)
        assert ledger.place == Place("SSH", 1, 2, said(7))
        assert repr(ledger) == "connection SSH/1/2"
        assert repr(new("")) == "connection -/1/2"
