"""The connections of a session that outlive its links, and what the ends tell each other of them.

Which of them go on, and from where, is decided by :mod:`.resumption`, and the books of each are
its :class:`~.ledger.Ledger`. Here both meet the streams and connections of a session: what is
agreed is said in messages and events, and messages are entered into the books.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from ..wire import (
    PLACE_SIZE,
    Message,
    MessageType,
    Side,
    decode_fin,
    decode_progress,
    encode_fin,
    encode_progress,
)
from .events import (
    ConnectionPaused,
    ConnectionResumed,
    EndCause,
    Event,
    PeerFinished,
    Resumed,
    Suspended,
)
from .ledger import Counts, Ledger
from .outgoing import Outgoing
from .replay import ReplayMemory
from .resumption import Resumption
from .streams import Connection

__all__ = ["Continuity", "ContinuityOwner"]


class ContinuityOwner(Protocol):
    """Who has the streams."""

    def connection_of(self, ledger: Ledger) -> Connection:
        """Return the connection of a ledger."""

    def forget_forms(self) -> None:
        """Called when no message of the peer is to be recognised by its first bytes any more."""

    def end_connection(self, connection: Connection, cause: EndCause) -> None:
        """Remove a connection that has ended, and tell of it."""

    def tell(self, event: Event) -> None:
        """Tell of an event."""


class Continuity:
    """What a session has because its connections outlive links.

    ``agreed`` is called when both ends have agreed, before anything follows from that.
    """

    def __init__(
        self,
        side: Side,
        session_id: bytes,
        memory: ReplayMemory,
        outgoing: Outgoing,
        owner: ContinuityOwner,
        agreed: Callable[[], None],
    ) -> None:
        self.resumption = Resumption(side, session_id, memory, self)
        self._is_source = side is Side.SOURCE
        self._outgoing = outgoing
        self._owner = owner
        self._agreed = agreed
        self._told = False
        """Whether it was told that connections are suspended, and not yet that they go on."""

    @property
    def is_live(self) -> bool:
        """Whether both ends have agreed."""
        return self.resumption.is_live

    @property
    def has_connections(self) -> bool:
        """Whether there are connections that outlive the link, or wait for the next one."""
        return self.resumption.count > 0

    def has_ended(self, message: Message, service_id: str) -> bool:
        """Return whether a message starts a connection that has ended here (destination).

        One without an id has, too: ids are what tells connections apart over links.
        """
        return (
            not self._is_source
            and self.is_live
            and message.type in (MessageType.STREAM_START, MessageType.CONNECTION_START)
            and self.resumption.has_ended(service_id, message.stream_id, message.connection_id)
        )

    def new_counts(self, service_id: str, stream_id: int, connection_id: int) -> Counts:
        """Return the books of a new connection; they outlive the link if both ends have agreed."""
        if not self.is_live:
            return Counts()
        return self.resumption.open(service_id, stream_id, connection_id)

    def cost_of(self, offer: Message) -> int:
        """Return about how many connections have to be looked at for an offer."""
        return self.resumption.count + len(offer.payload) // PLACE_SIZE

    def tell_suspended(self) -> None:
        """Tell that connections wait for an agreement, once."""
        count = self.resumption.count
        if count and not self._told:
            self._told = True
            self._owner.tell(Suspended(count))

    def give_up(self, cause: EndCause) -> None:
        """End all connections that wait for an agreement, or have one."""
        self.resumption.give_up(cause)

    # -- what the resumption asks for -----------------------------------------------------------

    def send_offer(self, payload: bytes) -> None:
        self._outgoing.offer(payload)

    def send_start(self, ledger: Ledger, *, first: bool) -> None:
        kind = MessageType.STREAM_START if first else MessageType.CONNECTION_START
        self._outgoing.of_ledger(kind, ledger)

    def send_reset(self, ledger: Ledger) -> None:
        self._outgoing.of_ledger(MessageType.CONNECTION_RESET, ledger)

    def suspended(self) -> None:
        self._owner.forget_forms()
        for connection in map(self._owner.connection_of, self.resumption.ledgers):
            connection.pauses_peer = False
            if not connection.is_paused:
                connection.is_paused = True
                self._owner.tell(ConnectionPaused(connection))

    def resumed(self) -> None:
        self._told = False
        self._agreed()
        ledgers = self.resumption.ledgers
        self._owner.tell(Resumed(len(ledgers), sum(ledger.unsent for ledger in ledgers)))
        for ledger in ledgers:
            if ledger.is_open:
                self.go_on(self._owner.connection_of(ledger))

    def ended(self, ledger: Ledger, cause: EndCause) -> None:
        self._owner.end_connection(self._owner.connection_of(ledger), cause)

    # -- connections ----------------------------------------------------------------------------

    def go_on(self, connection: Connection) -> None:
        """Let a connection go on: it has been started again on this link."""
        ledger = connection.ledger
        assert ledger is not None
        ledger.begin()
        connection.is_paused = connection.pauses_peer = False
        self._owner.tell(ConnectionResumed(connection))
        self.settle(connection)

    def acknowledge(self, connections: Iterable[Connection]) -> list[Connection]:
        """Acknowledge what has come for connections, however little it is.

        Return those for which anything has: their next bytes are not looked at before a mark.
        """
        news: list[tuple[Connection, bytes]] = []
        for connection in connections:
            ledger = connection.ledger
            if ledger is None or not (ledger.is_open and ledger.owes):
                continue
            if ledger.has_news:
                news.append((connection, encode_progress(ledger.progress)))
                ledger.progress_told()
            else:
                ledger.owe_nothing()
        self._outgoing.send_all(MessageType.CONNECTION_ACK, news)
        return [connection for connection, _ in news]

    def settle(self, connection: Connection) -> None:
        """Send what is due for a connection, and end it if it is over."""
        ledger = connection.ledger
        assert ledger is not None
        if ledger.fin_is_due:
            payload = encode_fin(ledger.sent)
            self._outgoing.send_ours(MessageType.CONNECTION_FIN, connection, payload)
            ledger.fin_sent()
        if ledger.acknowledgement_is_due:
            payload = encode_progress(ledger.progress)
            self._outgoing.send_ours(MessageType.CONNECTION_ACK, connection, payload)
            ledger.progress_told()
        if ledger.is_over and connection.is_open:
            self._owner.end_connection(connection, EndCause.COMPLETED)

    def mark_reached(self, connection: Connection) -> None:
        """Acknowledge what has come for a connection.

        Raises:
            RemoteProtocolError: it is more than was allowed.
        """
        ledger = connection.ledger
        assert ledger is not None
        ledger.mark_reached()
        ledger.widen()
        self.settle(connection)

    def acknowledged(self, connection: Connection, message: Message) -> None:
        """Take a CONNECTION_ACK.

        Raises:
            RemoteProtocolError: it is none, or contradicts what was said and sent before.
        """
        ledger = connection.ledger
        assert ledger is not None
        was_out = not ledger.room
        ledger.acknowledged(decode_progress(message.payload))
        # What has to be sent again comes first, and is under way to its turn.
        if was_out and ledger.room and not (connection.is_paused or ledger.unsent):
            self._owner.tell(ConnectionResumed(connection))
        self.settle(connection)

    def finished(self, connection: Connection, message: Message) -> None:
        """Take a CONNECTION_FIN.

        Raises:
            RemoteProtocolError: it is none, or not where the last byte was.
        """
        ledger = connection.ledger
        assert ledger is not None
        ledger.fin_arrived(decode_fin(message.payload))
        self._owner.tell(PeerFinished(connection))
        self.settle(connection)
