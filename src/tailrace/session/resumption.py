"""Go on with connections over lost links: which ones, and from where.

Two ends that meet again cannot know what became of the messages that were under way, nor whether
what arrives now was sent before or after. So each begins an *incarnation* with each of its links,
and whenever it hears that its peer has left. Its number, together with the id of the process,
names what it has sent since. The ends make offers to each other, and an offer names both
incarnations, as far as its sender knows them, and how far each connection has come.

**An offer that names my present incarnation** was made by a peer that has heard my offer, so that
what follows it was sent to this incarnation. That is the agreement. Invariants:

* Stream messages are sent and taken only while :attr:`Resumption.is_live`; whatever comes earlier
  is of an incarnation that has gone, and will be sent again.
* An end that is live has sent an offer that names the peer's incarnation, ahead of everything else.
* What an offer says stays true until its receiver is live, as nothing is taken before that.

A connection goes on if both have it. One that only this end has, ended at the peer; but at a
source, one above the highest id that the destination has known has not begun there: its start was
lost. Ids ascend and links keep order, so that each start is taken once. One that the source ends
between its offer and the agreement would be waited for at the destination: its start is sent
once more, and then its reset.

After the agreement the source starts its streams again, which the service has forgotten; the
destination sends for a connection when that start has come.

A session id that is another one than before means that the peer was restarted: all that had begun
is lost. Ids of connections wrap after 2**32; a session does not live that long.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Protocol, TypeAlias

from ..errors import LocalProtocolError, RemoteProtocolError
from ..wire import (
    NOBODY,
    SESSION_ID_SIZE,
    Progress,
    SessionOffer,
    Side,
    decode_offer,
    encode_offer,
    fits_offer,
)
from .events import EndCause
from .ledger import Ledger
from .replay import ReplayMemory
from .transitions import RESUMPTION, ResumptionAction, ResumptionEvent, ResumptionState

__all__ = ["Resumption", "ResumptionHandler"]

_Key: TypeAlias = tuple[str, int]
"""Service id and connection id."""

_RENEWING: Final = {ResumptionAction.RENEW, ResumptionAction.RENEW_AND_OFFER}
_AGREEING: Final = {ResumptionAction.AGREE, ResumptionAction.OFFER_AND_AGREE}
_OFFERING: Final = {
    ResumptionAction.OFFER,
    ResumptionAction.RENEW_AND_OFFER,
    ResumptionAction.OFFER_AND_AGREE,
}


class ResumptionHandler(Protocol):
    """The owner of a resumption, of which it may call :meth:`Resumption.end` from within these."""

    def send_offer(self, payload: bytes) -> None:
        """Called when a SESSION_OFFER has to be sent."""

    def send_start(self, ledger: Ledger, *, first: bool) -> None:
        """Called at a source when a connection starts again: with its stream if it is ``first``."""

    def send_reset(self, ledger: Ledger) -> None:
        """Called when the peer has to be told that a connection has ended."""

    def suspended(self) -> None:
        """Called when nothing may be sent any more for any connection."""

    def resumed(self) -> None:
        """Called when both ends agree, and what is open may be sent."""

    def ended(self, ledger: Ledger, cause: EndCause) -> None:
        """Called when a connection has ended at the peer, or with it."""


class Resumption:
    """One end of a tunnel, as far as it outlives links.

    ``session_id`` must be random, and a new one for each process. Call :meth:`link_up` and
    :meth:`link_lost` for each link whose service passes offers on, and :meth:`open` and
    :meth:`end` for each connection.
    """

    def __init__(
        self, side: Side, session_id: bytes, memory: ReplayMemory, handler: ResumptionHandler
    ) -> None:
        if len(session_id) != SESSION_ID_SIZE or session_id == NOBODY:
            raise LocalProtocolError(f"a session id of {len(session_id)} bytes, or of zeros")
        self.state = ResumptionState.DOWN
        self._is_source = side is Side.SOURCE
        self._id = session_id
        self._memory = memory
        self._handler = handler
        self._nonce = 0
        """This end's incarnation; the first one is 1."""
        self._peer_id = NOBODY
        self._peer_nonce = 0
        """The peer's, 0 if it was not heard since this one began."""
        self._ledgers: dict[_Key, Ledger] = {}
        """In the order of their ids in each service."""
        self._highest: dict[str, int] = {}
        """Service id -> the highest connection id that there was."""
        self._offered: set[_Key] = set()
        """The connections that this incarnation has offered."""
        self._ended: dict[_Key, Ledger] = {}
        """Those of them that the source has ended before the agreement."""
        self._heard: dict[_Key, Progress] = {}
        """What the peer has said of this end's connections, in an offer that goes on."""

    @property
    def is_live(self) -> bool:
        """Whether stream messages may be sent, and taken."""
        return self.state is ResumptionState.LIVE

    def has_ended(self, service_id: str, stream_id: int, connection_id: int) -> bool:
        """Return whether a connection has been there, and is not any more."""
        if connection_id > self.highest(service_id):
            return False
        ledger = self._ledgers.get((service_id, connection_id))
        return ledger is None or ledger.stream_id != stream_id

    def highest(self, service_id: str) -> int:
        """Return the highest connection id that there was, 0 if there was none."""
        return self._highest.get(service_id, 0)

    def fits(self, service_ids: Iterable[str]) -> bool:
        """Return whether an offer can name these services, and those that there were before."""
        return fits_offer(self._highest.keys() | set(service_ids))

    @property
    def count(self) -> int:
        """Number of connections."""
        return len(self._ledgers)

    @property
    def ledgers(self) -> list[Ledger]:
        """All connections."""
        return list(self._ledgers.values())

    # -- connections ------------------------------------------------------------------------

    def open(self, service_id: str, stream_id: int, connection_id: int) -> Ledger:
        """Note a connection that is started, by this source or at this destination.

        There is an agreement, and ``connection_id`` is above the :meth:`highest`.
        """
        ledger = Ledger(service_id, stream_id, connection_id, self._memory)
        self._ledgers[service_id, connection_id] = ledger
        self._highest[service_id] = connection_id
        ledger.begin()
        return ledger

    def end(self, ledger: Ledger) -> None:
        """Forget a connection: it is over, or was reset, by either end."""
        key, was_open = (ledger.service_id, ledger.connection_id), ledger.is_open
        if self._forget(ledger) and self._is_source and not was_open and key in self._offered:
            self._ended[key] = ledger

    def _forget(self, ledger: Ledger) -> bool:
        found = self._ledgers.pop((ledger.service_id, ledger.connection_id), None) is not None
        if found:
            ledger.close()
        return found

    def give_up(self, cause: EndCause) -> None:
        """End all connections: nobody comes to go on with them, or somebody who cannot."""
        for ledger in self.ledgers:
            over = ledger.is_complete
            self.end(ledger)
            self._handler.ended(ledger, EndCause.COMPLETED if over else cause)

    def _end_at_peer(self, ledger: Ledger, cause: EndCause) -> None:
        self._forget(ledger)
        self._handler.ended(ledger, cause)

    # -- links and offers ---------------------------------------------------------------------

    def link_up(self) -> None:
        """Make the first offer on a new link."""
        self._take(ResumptionEvent.LINK_UP)

    def link_lost(self) -> None:
        """Suspend all connections: the link is gone."""
        self._take(ResumptionEvent.LINK_LOST)

    def peer_left(self) -> None:
        """Suspend all connections: the service says that the peer is gone."""
        self._take(ResumptionEvent.PEER_LEFT)

    def offer_received(self, payload: bytes | memoryview) -> None:
        """Take the payload of a SESSION_OFFER.

        Raises:
            RemoteProtocolError: it is not one.
        """
        offer = decode_offer(payload)
        if offer is None or self.state is ResumptionState.DOWN:
            return
        if offer.sender == NOBODY or not offer.nonce:
            raise RemoteProtocolError("an offer of nobody, or of no incarnation")
        if offer.sender != self._peer_id:
            self._meet(offer.sender)
        for place in offer.places:
            key = (place.service_id, place.connection_id)
            if key in self._ledgers or key in self._ended:
                self._heard[key] = place.progress
        if offer.more:
            return
        event = self._event_of(offer)
        self._peer_nonce = offer.nonce
        if self._take(event):
            self._agree(offer.highest)
        self._heard.clear()

    def _event_of(self, offer: SessionOffer) -> ResumptionEvent:
        is_new = offer.nonce != self._peer_nonce
        if (offer.peer, offer.peer_nonce) == (self._id, self._nonce):
            return ResumptionEvent.OFFER_AWARE_NEW if is_new else ResumptionEvent.OFFER_AWARE
        return ResumptionEvent.OFFER_UNAWARE_NEW if is_new else ResumptionEvent.OFFER_UNAWARE

    def _meet(self, peer_id: bytes) -> None:
        """Note who the peer is; what was there with another one is lost."""
        for ledger in self.ledgers:
            self._end_at_peer(ledger, EndCause.PEER_RESTARTED)
        if not self._is_source:
            self._highest.clear()  # a new source counts from 1
        self._ended.clear()
        self._peer_id = peer_id
        self._peer_nonce = 0

    def _take(self, event: ResumptionEvent) -> bool:
        """Do what the table says, all but agreeing; return whether that is to be done."""
        action, self.state = RESUMPTION[self.state, event]
        if action is not ResumptionAction.NOTHING:
            for ledger in self._ledgers.values():
                ledger.suspend()
            self._handler.suspended()
        if action in _RENEWING:
            self._nonce += 1
            self._peer_nonce = 0
            self._offered.clear()
            self._ended.clear()
            self._heard.clear()
        if action in _OFFERING:
            self._offer()
        return action in _AGREEING

    def _offer(self) -> None:
        self._offered.update(self._ledgers)
        places = tuple(ledger.place for ledger in self._ledgers.values())
        ids = (self._id, self._peer_id, self._nonce, self._peer_nonce)
        for payload in encode_offer(SessionOffer(*ids, self._highest, places)):
            self._handler.send_offer(payload)

    # -- the agreement --------------------------------------------------------------------------

    def _agree(self, highest: Mapping[str, int]) -> None:
        """Go on with what both ends have, and end the rest."""
        for key, ledger in list(self._ledgers.items()):
            if key not in self._ledgers:
                continue  # ended by what was told of another one
            progress = self._heard.get(key)
            began = not self._is_source or key[1] <= highest.get(key[0], 0)
            if progress is None and began:
                over = ledger.may_be_over
                self._end_at_peer(ledger, EndCause.COMPLETED if over else EndCause.CONNECTION_RESET)
                continue
            try:
                ledger.go_on(progress)
            except RemoteProtocolError:
                self.end(ledger)
                self._handler.ended(ledger, EndCause.PROTOCOL_ERROR)
        if self._is_source:
            self._start_again()
        self._handler.resumed()

    def _start_again(self) -> None:
        """Have all connections started, and those reset that the peer waits for in vain."""
        waited_for = {key: self._ended[key] for key in self._ended.keys() & self._heard.keys()}
        self._ended.clear()
        started: set[tuple[str, int]] = set()
        for key, ledger in sorted((self._ledgers | waited_for).items()):
            stream = (ledger.service_id, ledger.stream_id)
            self._handler.send_start(ledger, first=stream not in started)
            started.add(stream)
            if key in waited_for:
                self._handler.send_reset(ledger)
            else:
                ledger.begin()
