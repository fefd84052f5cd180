"""How two ends agree on what goes on, offer by offer; tests/session/test_survival.py plays it."""

from __future__ import annotations

from itertools import product

import pytest

from tailrace.errors import LocalProtocolError, RemoteProtocolError
from tailrace.session.ledger import FIRST_LIMIT, Ledger
from tailrace.session.resumption import Resumption
from tailrace.session.transitions import (
    RESUMPTION,
    ResumptionAction,
    ResumptionEvent,
    ResumptionState,
)
from tailrace.wire import NOBODY, Place, Progress, SessionOffer, Side, decode_offer, encode_offer

ME, YOU, OTHER = (bytes([number]) * 16 for number in (1, 2, 3))
AT_START = Progress(0, FIRST_LIMIT, fin_seen=False)


class Room:
    """A resumption and what it has asked for."""

    def __init__(self, side: Side = Side.SOURCE) -> None:
        self.resumption = Resumption(side, ME, self)
        self.offers: list[SessionOffer] = []
        self.log: list[tuple[str, int]] = []
        self.ends: list[Ledger] = []
        """What to end as soon as anything has ended."""

    def send_offer(self, payload: bytes) -> None:
        offer = decode_offer(payload)
        assert offer is not None
        self.offers.append(offer)

    def send_start(self, ledger: Ledger, *, first: bool) -> None:
        self.log.append(("stream" if first else "start", ledger.connection_id))

    def send_reset(self, ledger: Ledger) -> None:
        self.log.append(("reset", ledger.connection_id))

    def resumed(self) -> None:
        self.log.append(("resumed", 0))

    def ended(self, ledger: Ledger, *, in_order: bool) -> None:
        self.log.append(("over" if in_order else "lost", ledger.connection_id))
        while self.ends:
            self.resumption.end(self.ends.pop())

    def take_log(self) -> list[tuple[str, int]]:
        log, self.log = self.log, []
        return log

    def hear(
        self,
        *places: Place,
        highest: int = 0,
        sender: bytes = YOU,
        nonce: int = 1,
        aware: bool = True,
        more: bool = False,
    ) -> None:
        """Take an offer; one that is aware names the latest of this end's."""
        names = (ME, self.offers[-1].nonce) if aware else (NOBODY, 0)
        offer = SessionOffer(sender, names[0], nonce, names[1], {"SSH": highest}, places, more)
        for payload in encode_offer(offer):
            self.resumption.offer_received(payload)

    def agree(self, *places: Place, highest: int = 0, nonce: int = 1) -> list[tuple[str, int]]:
        """Come to an agreement on a new link; return what was asked for."""
        self.resumption.link_up()
        self.take_log()
        self.hear(*places, highest=highest, nonce=nonce)
        assert self.resumption.is_live
        return self.take_log()


def place(number: int, received: int = 0, *, fin_seen: bool = False) -> Place:
    return Place("SSH", 1, number, Progress(received, FIRST_LIMIT + received, fin_seen))


def opened(room: Room, *numbers: int) -> list[Ledger]:
    return [room.resumption.open("SSH", 1, number) for number in numbers]


@pytest.mark.parametrize("session_id", [b"", ME + b"x", NOBODY])
def test_a_session_id_has_16_bytes_that_are_not_all_zero(session_id: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        Resumption(Side.SOURCE, session_id, Room())


def test_the_table_knows_every_event_in_every_state() -> None:
    assert set(RESUMPTION) == set(product(ResumptionState, ResumptionEvent))
    assert {action for action, _ in RESUMPTION.values()} == set(ResumptionAction)


def test_live_is_only_who_has_been_named() -> None:
    for (state, event), (action, after) in RESUMPTION.items():
        agrees = action in (ResumptionAction.AGREE, ResumptionAction.OFFER_AND_AGREE)
        if after is ResumptionState.LIVE:
            named = event in (ResumptionEvent.OFFER_AWARE, ResumptionEvent.OFFER_AWARE_NEW)
            assert named or state is ResumptionState.LIVE
            assert agrees or action is ResumptionAction.NOTHING
        else:
            assert not agrees


def test_the_offers_of_two_ends_that_meet() -> None:
    room = Room()
    room.resumption.link_up()
    assert room.offers == [SessionOffer(ME, NOBODY, 1, 0)]
    room.hear(aware=False, nonce=7)
    assert room.offers[1:] == [SessionOffer(ME, YOU, 1, 7)]
    assert not room.resumption.is_live
    room.hear(nonce=7)
    assert room.resumption.is_live
    assert len(room.offers) == 2
    assert room.log == [("resumed", 0)]


def test_who_is_named_by_a_stranger_answers_before_it_goes_on() -> None:
    room = Room()
    room.resumption.link_up()
    room.hear(nonce=7)
    assert room.resumption.is_live
    assert room.offers[1:] == [SessionOffer(ME, YOU, 1, 7)]


def test_each_link_and_each_peer_that_leaves_begins_an_incarnation() -> None:
    room = Room()
    room.agree()
    room.resumption.peer_left()
    assert not room.resumption.is_live
    assert len(room.offers) == 2  # nobody is there to read another one
    room.hear(nonce=2)  # names the incarnation that has gone
    assert room.offers[-1] == SessionOffer(ME, YOU, 2, 2)
    assert not room.resumption.is_live
    room.resumption.link_lost()
    room.hear(nonce=2)  # was under way
    assert room.resumption.state is ResumptionState.DOWN
    room.resumption.link_up()
    assert room.offers[-1] == SessionOffer(ME, YOU, 3, 0)


def test_a_peer_with_another_incarnation_ends_the_agreement() -> None:
    room = Room()
    (ledger,) = opened(room, 1)
    assert room.agree(highest=0) == [("stream", 1), ("resumed", 0)]
    assert ledger.is_open
    room.hear(aware=False, nonce=1)  # crossed our answer
    assert room.resumption.is_live
    room.hear(aware=False, nonce=2)
    assert not room.resumption.is_live
    assert not ledger.is_open
    room.hear(place(1), highest=1, nonce=2)
    assert ledger.is_open


def test_what_both_have_goes_on_and_the_rest_has_ended() -> None:
    room = Room()
    first, second, third, fourth = opened(room, 1, 2, 3, 4)
    for ledger in (first, second):
        ledger.record(memoryview(b"0123456789"))
    assert room.agree(nonce=1) == [
        *[("stream", 1), ("start", 2), ("start", 3), ("start", 4)],
        ("resumed", 0),
    ]
    first.next_unsent(100)
    second.next_unsent(100)
    third.end()
    third.fin_sent()
    third.fin_arrived(0)
    room.resumption.link_lost()
    log = room.agree(place(1, 4), place(9), highest=3, nonce=2)
    assert log == [("lost", 2), ("over", 3), ("stream", 1), ("start", 4), ("resumed", 0)]
    assert [first.is_open, second.is_open, fourth.is_open] == [True, False, True]
    assert (first.unsent, fourth.unsent) == (6, 0)
    assert room.resumption.ledgers == [first, fourth]
    assert room.resumption.find("SSH", 1) is first
    assert room.resumption.find("SSH", 2) is None


def test_the_destination_goes_on_when_a_start_has_come() -> None:
    room = Room(Side.DESTINATION)
    room.agree()
    first, second = (room.resumption.requested("SSH", 1, number) for number in (1, 2))
    assert first is not None
    assert second is not None
    room.resumption.link_lost()
    assert not first.is_open
    assert room.agree(place(1), place(3), nonce=2) == [("lost", 2), ("resumed", 0)]
    assert not first.is_open
    assert room.resumption.requested("SSH", 1, 1) is first
    assert first.is_open
    assert room.resumption.requested("SSH", 1, 2) is None
    third = room.resumption.requested("SSH", 1, 3)
    assert third is not None
    assert third.is_open
    assert room.offers[-1].highest == {"SSH": 2}


def test_who_says_what_cannot_be_loses_that_connection() -> None:
    room = Room()
    opened(room, 1, 2)
    room.agree()
    room.resumption.link_lost()
    log = room.agree(place(1, 1), place(2), highest=2, nonce=2)
    # The destination waits for its start, and is told.
    assert log == [("lost", 1), ("stream", 1), ("reset", 1), ("start", 2), ("resumed", 0)]


def test_one_that_is_ended_between_offer_and_agreement_is_waited_for_at_the_destination() -> None:
    room = Room()
    first, second, third = opened(room, 1, 2, 3)
    room.agree()
    room.resumption.link_lost()
    room.resumption.end(first)  # the next offer leaves it out
    room.resumption.end(first)
    room.resumption.link_up()
    room.resumption.end(second)
    (fourth,) = opened(room, 4)
    room.resumption.end(fourth)  # was never offered
    room.take_log()
    room.hear(place(2), place(3), highest=3, nonce=2)
    assert room.take_log() == [("stream", 2), ("reset", 2), ("start", 3), ("resumed", 0)]
    assert third.is_open
    room.resumption.link_lost()
    assert [ledger.connection_id for ledger in room.resumption.ledgers] == [3]


def test_one_that_ended_before_its_start_came_is_nothing_to_tell() -> None:
    room = Room()
    (ledger,) = opened(room, 1)
    room.resumption.link_up()
    room.resumption.end(ledger)
    room.hear()
    assert room.log == [("resumed", 0)]


def test_an_offer_may_come_in_parts() -> None:
    room = Room()
    first, second = opened(room, 1, 2)
    room.agree()
    room.resumption.link_lost()
    room.resumption.link_up()
    room.take_log()
    room.hear(place(1), highest=2, nonce=2, more=True)
    assert not room.resumption.is_live
    room.hear(place(2), highest=2, nonce=2)
    assert room.log == [("stream", 1), ("start", 2), ("resumed", 0)]
    assert first.is_open
    assert second.is_open


def test_parts_do_not_outlive_a_link() -> None:
    room = Room()
    opened(room, 1)
    room.agree()
    room.resumption.link_lost()
    room.resumption.link_up()
    room.hear(place(1), highest=1, nonce=2, more=True)
    room.resumption.peer_left()
    room.hear(aware=False, nonce=3)
    room.take_log()
    room.hear(highest=1, nonce=3)
    assert room.log == [("lost", 1), ("resumed", 0)]


@pytest.mark.parametrize("side", list(Side))
def test_a_peer_that_was_restarted_has_lost_everything(side: Side) -> None:
    room = Room(side)
    room.agree()
    if side is Side.SOURCE:
        opened(room, 1)
    else:
        assert room.resumption.requested("SSH", 1, 1) is not None
    room.resumption.peer_left()
    if side is Side.SOURCE:
        opened(room, 2)  # nobody has heard of this one
    room.hear(sender=OTHER, aware=False)
    assert room.take_log()[-1] == ("lost", 1)
    room.hear(sender=OTHER)
    if side is Side.SOURCE:
        assert room.log == [("stream", 2), ("resumed", 0)]
    else:
        assert room.resumption.requested("SSH", 1, 1) is not None


def test_giving_up() -> None:
    room = Room()
    first, second = opened(room, 1, 2)
    room.agree()
    first.end()
    first.fin_sent()
    first.acknowledged(Progress(0, FIRST_LIMIT, fin_seen=True))
    first.fin_arrived(0)
    room.resumption.link_lost()
    room.resumption.give_up()
    assert room.log == [("over", 1), ("lost", 2)]
    assert not second.is_open
    assert room.resumption.ledgers == []
    assert room.agree(place(2), highest=2, nonce=2) == [("resumed", 0)]


def test_what_ends_with_another_one_is_not_told_twice() -> None:
    room = Room()
    _, second = opened(room, 1, 2)
    room.agree()
    room.resumption.link_lost()
    room.ends.append(second)
    assert room.agree(highest=2, nonce=2) == [("lost", 1), ("resumed", 0)]


def test_an_offer_of_another_version_means_nothing() -> None:
    room = Room()
    room.resumption.link_up()
    room.resumption.offer_received(b"\x02")
    assert len(room.offers) == 1


def test_an_offer_of_nobody_or_of_no_incarnation() -> None:
    room = Room()
    room.resumption.link_up()
    for changes in ({"sender": NOBODY}, {"nonce": 0}):
        with pytest.raises(RemoteProtocolError, match="an offer of nobody"):
            room.hear(**changes)
    with pytest.raises(RemoteProtocolError):
        room.resumption.offer_received(b"")
