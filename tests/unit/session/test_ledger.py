"""The books of one connection: credit, acknowledgements, ends, and what a peer may not say."""

from __future__ import annotations

import pytest

from tailrace.errors import LocalProtocolError, RemoteProtocolError
from tailrace.session.ledger import FIRST_LIMIT, Ledger, SendingHalf
from tailrace.wire import MAX_PAYLOAD, Place, Progress

QUARTER = FIRST_LIMIT // 4


def begun() -> Ledger:
    ledger = Ledger("SSH", 1, 2)
    assert not ledger.has_begun
    ledger.begin()
    assert ledger.is_open
    assert ledger.has_begun
    return ledger


def send(ledger: Ledger, size: int) -> bytes:
    ledger.record(memoryview(bytes(size)))
    return ledger.next_unsent(size)


def test_credit_is_what_the_peer_allows() -> None:
    ledger = begun()
    assert ledger.credit == FIRST_LIMIT
    assert send(ledger, 100) == bytes(100)
    assert (ledger.credit, ledger.unsent) == (FIRST_LIMIT - 100, 0)
    ledger.acknowledged(Progress(60, FIRST_LIMIT + 10, fin_seen=False))
    assert (ledger.credit, len(ledger.replay)) == (FIRST_LIMIT - 90, 40)
    # A limit is not taken back.
    ledger.acknowledged(Progress(100, 100, fin_seen=False))
    assert ledger.credit == FIRST_LIMIT - 90


def test_no_more_is_recorded_than_the_credit() -> None:
    ledger = begun()
    while ledger.credit:
        ledger.record(memoryview(bytes(min(ledger.credit, MAX_PAYLOAD))))
    with pytest.raises(LocalProtocolError, match="1 bytes are more than may be sent"):
        ledger.record(memoryview(b"x"))


def test_nothing_is_recorded_behind_the_end() -> None:
    ledger = begun()
    ledger.end()
    with pytest.raises(LocalProtocolError):
        ledger.record(memoryview(b"x"))


@pytest.mark.parametrize(
    "progress",
    [
        Progress(9, FIRST_LIMIT, fin_seen=False),  # acknowledged before
        Progress(31, FIRST_LIMIT, fin_seen=False),  # recorded, but not sent
        Progress(30, FIRST_LIMIT, fin_seen=True),  # not ended
    ],
)
def test_what_cannot_be_acknowledged(progress: Progress) -> None:
    ledger = begun()
    send(ledger, 30)
    ledger.acknowledged(Progress(10, FIRST_LIMIT, fin_seen=False))
    ledger.record(memoryview(b"later"))
    with pytest.raises(RemoteProtocolError, match="acknowledged"):
        ledger.acknowledged(progress)


def test_the_end_is_told_behind_everything_else() -> None:
    ledger = begun()
    ledger.record(memoryview(b"last"))
    ledger.end()
    ledger.end()
    assert not ledger.fin_is_due
    ledger.next_unsent(10)
    assert ledger.fin_is_due
    ledger.fin_sent()
    assert not ledger.fin_is_due
    ledger.end()
    assert ledger.half is SendingHalf.TOLD
    with pytest.raises(RemoteProtocolError, match="an end acknowledged"):
        ledger.acknowledged(Progress(3, FIRST_LIMIT, fin_seen=True))
    ledger.acknowledged(Progress(4, FIRST_LIMIT, fin_seen=True))
    assert ledger.half is SendingHalf.ACKNOWLEDGED


def test_an_acknowledgement_is_due_for_each_quarter_of_the_window() -> None:
    ledger = begun()
    ledger.arrived(QUARTER - 1)
    assert not ledger.acknowledgement_is_due
    ledger.arrived(1)
    assert ledger.acknowledgement_is_due
    assert ledger.progress == Progress(QUARTER, FIRST_LIMIT, fin_seen=False)
    ledger.progress_told()
    assert not ledger.acknowledgement_is_due
    ledger.taken(QUARTER)
    assert ledger.acknowledgement_is_due
    assert ledger.progress == Progress(QUARTER, FIRST_LIMIT + QUARTER, fin_seen=False)
    ledger.suspend()
    assert not ledger.acknowledgement_is_due


def test_a_window_may_grow() -> None:
    ledger = begun()
    ledger.window *= 2
    assert ledger.acknowledgement_is_due
    ledger.arrived(2 * FIRST_LIMIT)


def test_more_than_was_allowed_or_behind_the_end() -> None:
    ledger = begun()
    ledger.arrived(FIRST_LIMIT)
    with pytest.raises(RemoteProtocolError, match="1 bytes more than were allowed"):
        ledger.arrived(1)
    with pytest.raises(RemoteProtocolError, match=f"an end at 5, not at {FIRST_LIMIT}"):
        ledger.fin_arrived(5)
    ledger.fin_arrived(FIRST_LIMIT)
    ledger.taken(FIRST_LIMIT)
    with pytest.raises(RemoteProtocolError):
        ledger.arrived(1)


def test_it_is_over_when_both_ends_know_that_everything_has_come() -> None:
    ledger = begun()
    ledger.fin_arrived(0)
    assert ledger.acknowledgement_is_due
    assert not ledger.may_be_over
    ledger.end()
    assert ledger.may_be_over
    assert not ledger.is_complete
    ledger.fin_sent()
    ledger.acknowledged(Progress(0, FIRST_LIMIT, fin_seen=True))
    assert ledger.is_complete
    assert not ledger.is_over
    ledger.progress_told()
    assert ledger.is_over


def test_it_goes_on_where_the_peer_stands() -> None:
    ledger = begun()
    ledger.record(memoryview(b"0123456789"))
    ledger.next_unsent(100)
    ledger.end()
    ledger.fin_sent()
    ledger.suspend()
    ledger.go_on(Progress(4, FIRST_LIMIT, fin_seen=False))
    ledger.begin()
    assert ledger.acknowledgement_is_due
    assert not ledger.fin_is_due
    assert ledger.next_unsent(4) == b"4567"
    assert ledger.next_unsent(4) == b"89"
    assert ledger.fin_is_due


def test_it_begins_again_where_the_peer_has_not_heard_of_it() -> None:
    ledger = begun()
    send(ledger, 5)
    ledger.suspend()
    ledger.go_on(None)
    assert ledger.unsent == 5
    assert ledger.half is SendingHalf.OPEN


def test_its_place_and_its_name() -> None:
    ledger = begun()
    ledger.arrived(7)
    assert ledger.place == Place("SSH", 1, 2, Progress(7, FIRST_LIMIT, fin_seen=False))
    assert repr(ledger) == "connection SSH/1/2"
    assert repr(Ledger("", 1, 2)) == "connection -/1/2"
