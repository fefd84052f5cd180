"""How two ends agree on what goes on, offer by offer; tests/session/test_survival.py plays it."""

from __future__ import annotations

from itertools import product

import pytest

from support.session.books import send
from support.session.playbook import ME, YOU, place
from tailrace.errors import LocalProtocolError, RemoteProtocolError
from tailrace.session.events import EndCause
from tailrace.session.ledger import FIRST_LIMIT, Ledger
from tailrace.session.replay import ReplayMemory
from tailrace.session.resumption import Resumption
from tailrace.session.transitions import (
    RESUMPTION,
    ResumptionAction,
    ResumptionEvent,
    ResumptionState,
)
from tailrace.wire import NOBODY, Place, Progress, SessionOffer, Side, decode_offer, encode_offer

OTHER = b"o" * 16
RESUMED = ("resumed", 0)


class Room:
    """A resumption and what it has asked for."""

    def __init__(self, side: Side = Side.SOURCE) -> None:
        self.memory = ReplayMemory()
        self.resumption = Resumption(side, ME, self.memory, self)
        self.offers: list[SessionOffer] = []
        self.log: list[tuple[str, int]] = []
        self.ends: list[Ledger] = []
        """What to end as soon as anything has ended."""
        self.times_suspended = 0

    def send_offer(self, payload: bytes) -> None:
        offer = decode_offer(payload)
        assert offer is not None
        self.offers.append(offer)

    def send_start(self, ledger: Ledger, *, first: bool) -> None:
        self.log.append(("stream" if first else "start", ledger.connection_id))

    def send_reset(self, ledger: Ledger) -> None:
        self.log.append(("reset", ledger.connection_id))

    def suspended(self) -> None:
        assert not any(ledger.is_open for ledger in self.resumption.ledgers)
        self.times_suspended += 1

    def resumed(self) -> None:
        self.log.append(RESUMED)

    def ended(self, ledger: Ledger, cause: EndCause) -> None:
        self.log.append((cause.name, ledger.connection_id))
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
        offer = SessionOffer(sender, names[0], nonce, names[1], {"SSH1": highest}, places, more)
        for payload in encode_offer(offer):
            self.resumption.offer_received(payload)

    def agree(self, *places: Place, highest: int = 0, nonce: int = 1) -> list[tuple[str, int]]:
        """Come to an agreement on a new link; return what was asked for."""
        self.resumption.link_up()
        self.take_log()
        self.hear(*places, highest=highest, nonce=nonce)
        assert self.resumption.is_live
        return self.take_log()

    def open(self, *numbers: int) -> list[Ledger]:
        """Open connections under a first agreement."""
        if not self.resumption.is_live:
            self.agree()
        return [self.resumption.open("SSH1", 1, number) for number in numbers]


@pytest.mark.parametrize("session_id", [b"", ME + b"x", NOBODY])
def test_a_session_id_has_16_bytes_that_are_not_all_zero(session_id: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        Resumption(Side.SOURCE, session_id, ReplayMemory(), Room())


class TestTable:
    """The table of agreements."""

    def test_it_knows_every_event_in_every_state(self) -> None:
        assert set(RESUMPTION) == set(product(ResumptionState, ResumptionEvent))
        assert {action for action, _ in RESUMPTION.values()} == set(ResumptionAction)

    def test_live_is_only_who_has_been_named(self) -> None:
        for (state, event), (action, after) in RESUMPTION.items():
            agrees = action in (ResumptionAction.AGREE, ResumptionAction.OFFER_AND_AGREE)
            if after is ResumptionState.LIVE:
                named = event in (ResumptionEvent.OFFER_AWARE, ResumptionEvent.OFFER_AWARE_NEW)
                assert named or state is ResumptionState.LIVE
                assert agrees or action is ResumptionAction.NOTHING
            else:
                assert not agrees


class TestMeeting:
    """Offers, and who names whom."""

    def test_the_offers_of_two_ends_that_meet(self) -> None:
        room = Room()
        room.resumption.link_up()
        assert room.offers == [SessionOffer(ME, NOBODY, 1, 0)]
        room.hear(aware=False, nonce=7)
        assert room.offers[1:] == [SessionOffer(ME, YOU, 1, 7)]
        assert not room.resumption.is_live
        room.hear(nonce=7)
        assert room.resumption.is_live
        assert len(room.offers) == 2
        assert room.log == [RESUMED]

    def test_who_is_named_by_a_stranger_answers_before_it_goes_on(self) -> None:
        room = Room()
        room.resumption.link_up()
        room.hear(nonce=7)
        assert room.resumption.is_live
        assert room.offers[1:] == [SessionOffer(ME, YOU, 1, 7)]

    def test_each_link_and_each_peer_that_leaves_begins_an_incarnation(self) -> None:
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
        room.hear(sender=OTHER, nonce=9)
        assert room.resumption.state is ResumptionState.DOWN
        room.resumption.link_up()
        assert room.offers[-1] == SessionOffer(ME, YOU, 3, 0)

    def test_a_peer_with_another_incarnation_ends_the_agreement(self) -> None:
        room = Room()
        (ledger,) = room.open(1)
        assert ledger.is_open
        suspended = room.times_suspended
        room.hear(aware=False, nonce=1)  # crossed our answer
        assert room.resumption.is_live
        assert room.times_suspended == suspended
        room.hear(aware=False, nonce=2)
        assert not room.resumption.is_live
        assert room.times_suspended == suspended + 1
        assert not ledger.is_open
        room.hear(place(1), highest=1, nonce=2)
        assert ledger.is_open

    def test_an_offer_of_another_version_means_nothing(self) -> None:
        room = Room()
        room.resumption.link_up()
        room.resumption.offer_received(b"\x02")
        assert len(room.offers) == 1

    def test_an_offer_of_nobody_or_of_no_incarnation(self) -> None:
        room = Room()
        room.resumption.link_up()
        with pytest.raises(RemoteProtocolError, match="an offer of nobody"):
            room.hear(sender=NOBODY)
        with pytest.raises(RemoteProtocolError, match="an offer of nobody"):
            room.hear(nonce=0)
        with pytest.raises(RemoteProtocolError):
            room.resumption.offer_received(b"")

    @pytest.mark.parametrize("side", list(Side))
    def test_a_peer_that_was_restarted_has_lost_everything(self, side: Side) -> None:
        room = Room(side)
        room.open(1)
        room.resumption.peer_left()
        room.hear(sender=OTHER, aware=False)
        assert room.take_log() == [("PEER_RESTARTED", 1)]
        room.hear(sender=OTHER)
        assert room.log == [RESUMED]
        # A source counts on; a destination has a new source, which counts from 1.
        assert room.resumption.highest("SSH1") == (1 if side is Side.SOURCE else 0)


class TestAgreeing:
    """What goes on, and what has ended."""

    def test_what_both_have_goes_on_and_the_rest_has_ended(self) -> None:
        room = Room()
        first, second, third, fourth = room.open(1, 2, 3, 4)
        assert room.resumption.count == 4
        for ledger in (first, second):
            send(ledger, b"0123456789")
        third.end()
        third.fin_sent()
        third.fin_arrived(0)
        room.resumption.link_lost()
        log = room.agree(place(1, 4), place(9), highest=3, nonce=2)
        assert log == [
            ("CONNECTION_RESET", 2),
            ("COMPLETED", 3),
            ("stream", 1),
            ("start", 4),
            RESUMED,
        ]
        assert [first.is_open, second.is_open, fourth.is_open] == [True, False, True]
        assert (first.unsent, fourth.unsent) == (6, 0)
        assert room.resumption.ledgers == [first, fourth]

    def test_the_destination_goes_on_when_a_start_has_come(self) -> None:
        room = Room(Side.DESTINATION)
        first, _ = room.open(1, 2)
        room.resumption.link_lost()
        assert room.agree(place(1), place(3), nonce=2) == [("CONNECTION_RESET", 2), RESUMED]
        assert not first.is_open
        assert room.offers[-1].highest == {"SSH1": 2}
        ended = [room.resumption.has_ended("SSH1", 1, number) for number in (0, 1, 2, 3)]
        assert ended == [True, False, True, False]
        # Under another stream it is not the one that waits here.
        assert room.resumption.has_ended("SSH1", 2, 1)
        assert not room.resumption.has_ended("WEB", 1, 1)

    def test_who_says_what_cannot_be_loses_that_connection(self) -> None:
        room = Room()
        room.open(1, 2)
        room.resumption.link_lost()
        log = room.agree(place(1, 1), place(2), highest=2, nonce=2)
        # The destination waits for its start, and is told.
        assert log == [
            ("PROTOCOL_ERROR", 1),
            ("stream", 1),
            ("reset", 1),
            ("start", 2),
            RESUMED,
        ]

    def test_what_the_source_ends_between_offer_and_agreement_is_waited_for(self) -> None:
        room = Room()
        first, second, third = room.open(1, 2, 3)
        room.resumption.link_lost()
        room.resumption.end(first)  # the next offer leaves it out
        room.resumption.end(first)
        room.resumption.link_up()
        room.resumption.end(second)
        room.take_log()
        room.hear(place(2), place(3), highest=3, nonce=2)
        assert room.take_log() == [("stream", 2), ("reset", 2), ("start", 3), RESUMED]
        assert third.is_open
        room.resumption.link_lost()
        assert room.resumption.ledgers == [third]

    def test_one_that_ended_before_its_start_came_is_nothing_to_tell(self) -> None:
        room = Room()
        (ledger,) = room.open(1)
        room.resumption.link_lost()
        room.resumption.link_up()
        room.resumption.end(ledger)
        room.take_log()
        room.hear(nonce=2)
        assert room.log == [RESUMED]

    def test_what_ends_with_another_one_is_not_told_twice(self) -> None:
        room = Room()
        _, second = room.open(1, 2)
        room.resumption.link_lost()
        room.ends.append(second)
        assert room.agree(highest=2, nonce=2) == [("CONNECTION_RESET", 1), RESUMED]


class TestParts:
    """Offers that are too long for one message."""

    def test_an_offer_may_come_in_parts(self) -> None:
        room = Room()
        first, second = room.open(1, 2)
        room.resumption.link_lost()
        room.resumption.link_up()
        room.take_log()
        room.hear(place(1), highest=2, nonce=2, more=True)
        assert not room.resumption.is_live
        room.hear(place(2), highest=2, nonce=2)
        assert room.log == [("stream", 1), ("start", 2), RESUMED]
        assert first.is_open
        assert second.is_open

    def test_parts_do_not_outlive_a_link(self) -> None:
        room = Room()
        room.open(1)
        room.resumption.link_lost()
        room.resumption.link_up()
        room.hear(place(1), highest=1, nonce=2, more=True)
        room.resumption.peer_left()
        room.hear(aware=False, nonce=3)
        room.take_log()
        room.hear(highest=1, nonce=3)
        assert room.log == [("CONNECTION_RESET", 1), RESUMED]

    def test_parts_take_no_memory_for_what_is_not_here(self) -> None:
        room = Room()
        room.open(1)
        room.resumption.peer_left()
        for number in range(1, 100):
            room.hear(place(number), highest=99, nonce=2, more=True)
        assert [number for _, number in room.resumption._heard] == [1]


class TestGivingUp:
    """Nobody comes to go on."""

    def test_all_have_failed_but_those_that_are_complete(self) -> None:
        room = Room()
        first, second = room.open(1, 2)
        first.end()
        first.fin_sent()
        first.acknowledged(Progress(0, FIRST_LIMIT, fin_seen=True))
        first.fin_arrived(0)
        room.resumption.link_lost()
        room.resumption.give_up(EndCause.NOT_RESUMED)
        assert room.log == [("COMPLETED", 1), ("NOT_RESUMED", 2)]
        assert not second.is_open
        assert room.resumption.ledgers == []
        assert room.agree(place(2), highest=2, nonce=2) == [RESUMED]

    def test_a_destination_that_was_offered_one_does_not_wait_for_it(self) -> None:
        room = Room()
        room.open(1)
        room.resumption.link_lost()
        room.resumption.link_up()
        room.resumption.give_up(EndCause.NOT_RESUMED)
        room.take_log()
        room.hear(place(1), highest=1, nonce=2)
        assert room.log == [("stream", 1), ("reset", 1), RESUMED]
