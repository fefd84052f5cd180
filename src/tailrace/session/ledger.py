"""The books of one connection: what was sent, received and taken.

A link delivers everything in order or ends. So both ends count the bytes of a connection alike,
and messages need not carry offsets: when a link is lost, the receiver says how many have come, and
the sender goes on from there.

The receiver also says how much may be sent in all: what its local end has taken, and a window.
That limit bounds what waits at the receiver and what the sender keeps for a replay, however long
the link is down: an end whose local program sends on stops reading it. An end that has heard
nothing may send :data:`FIRST_LIMIT` bytes, so that no connection begins with a round trip. The
window doubles for as long as the local end keeps up with what comes, up to a share of what the
sender can keep where many connections are at work.

Acknowledgements are sent for each half window, more often where many connections owe one, and
within a second in any case: what all of them together have received and not acknowledged must stay
well below what the sender can keep (:data:`~.replay.MAX_KEPT`), or it would wait for
acknowledgements that are never due.

Each direction ends by itself, at an offset.

Bytes are counted for each message, so :class:`Counts` are plain numbers that those who move the
bytes change. All else is done at marks: who has no ``room`` any more waits, small messages are
counted when they have used up their share (``small_room``), and what comes is looked at when it
reaches ``ack_at``.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from ..common.counts import ByteCounts
from ..errors import RemoteProtocolError
from ..wire import DataHeader, Place, Progress
from .replay import MAX_KEPT, Block, ReplayBuffer, ReplayMemory

__all__ = ["FIRST_LIMIT", "MAX_WINDOW", "UNLIMITED", "Counts", "Ledger", "SendingHalf"]

FIRST_LIMIT: Final = 256 * 1024
"""Bytes that may be sent before the first acknowledgement; the smallest window, too."""
MAX_WINDOW: Final = 8 * 1024 * 1024
_SHARED_WINDOW: Final = MAX_KEPT
"""Bytes up to which a window widens, divided by how many connections owe acknowledgements."""
_OWED_BY_ONE: Final = MAX_KEPT // 12
"""Bytes after which an acknowledgement is due."""
_OWED_BY_ALL: Final = MAX_KEPT // 3
"""The same, divided by how many connections owe one."""
UNLIMITED: Final = 1 << 62
"""A mark that is never reached."""
_NOTHING: Final = Progress(0, 0, fin_seen=False)
"""Makes an acknowledgement due: the offer may be older than what the local end has taken."""


class SendingHalf(Enum):
    """The life of the direction that this end sends."""

    OPEN = "open"
    ENDED = "ended"
    """The local end has ended it, and the peer has to be told on this link."""
    TOLD = "told"
    """The peer has been told on this link."""
    ACKNOWLEDGED = "acknowledged"
    """The peer has everything."""


class Counts(ByteCounts):
    """The bytes of a connection; all there is to count for one that ends with its link."""

    __slots__ = ()

    def __init__(self, limit: int = UNLIMITED, ack_at: int = UNLIMITED) -> None:
        self.room = limit
        """Bytes that the local end may still send."""
        self.limit = limit
        """Bytes that it may send in all. So it has sent ``limit - room``."""
        self.small_room = 0
        """Bytes of small messages, headers included, before :meth:`Ledger.count_small`."""
        self.received = 0
        """Bytes that have come from the peer."""
        self.waiting = 0
        """Those of them that the local end has not taken."""
        self.ack_at = ack_at
        """``received`` at which :meth:`Ledger.mark_reached` is to be called."""

    @property
    def sent(self) -> int:
        """Bytes that the local end has sent."""
        return self.limit - self.room


class Ledger(Counts):
    """One connection that outlives links, at one end. It has no opinion on whether there is one.

    Sending: take what is sent from ``room``, where :attr:`is_open`, and keep it: a large message
    with :meth:`keep`, a small one in the :attr:`replay`, with :meth:`count_small` where that makes
    ``small_room`` negative. But send first what is :attr:`unsent`. :meth:`end` after the last byte,
    and send a FIN where :attr:`fin_is_due`.

    Receiving: add what comes to ``received``, and to ``waiting`` what the local end does not take
    at once. Send an acknowledgement where :attr:`acknowledgement_is_due`.
    """

    __slots__ = (
        "_allowed",
        "_told",
        "_widens_at",
        "connection_id",
        "fin_seen",
        "half",
        "is_open",
        "owes",
        "replay",
        "service_id",
        "stream_id",
        "unsent",
        "window",
    )

    def __init__(
        self, service_id: str, stream_id: int, connection_id: int, memory: ReplayMemory
    ) -> None:
        super().__init__(FIRST_LIMIT, ack_at=1)
        self.service_id = service_id
        self.stream_id = stream_id
        self.connection_id = connection_id
        self.is_open = False
        """Whether messages may be sent for the connection: both ends have agreed, and the service
        knows its stream."""
        self.window = FIRST_LIMIT
        """Bytes that the peer may send ahead of what the local end has taken; it never shrinks."""
        self.replay = ReplayBuffer(memory, DataHeader(stream_id, service_id, connection_id))
        self.unsent = 0
        """The last bytes of those that are kept, which were not sent on this link."""
        self.half = SendingHalf.OPEN
        self.fin_seen = False
        self._told = Progress(0, FIRST_LIMIT, fin_seen=False)
        """What the peer knows of the receiving half."""
        self._allowed = FIRST_LIMIT
        """Bytes that it may send in all."""
        self.owes = False
        """Whether something has come lately, of which not all may be acknowledged."""
        self._widens_at = FIRST_LIMIT // 2
        """``received`` at which the window may grow."""

    @property
    def is_complete(self) -> bool:
        """Whether both directions have ended, and everything has come."""
        return self.fin_seen and self.half is SendingHalf.ACKNOWLEDGED

    @property
    def is_over(self) -> bool:
        """Whether it is complete and the peer has been told so: nothing is left to do."""
        return self._told.fin_seen and self.half is SendingHalf.ACKNOWLEDGED

    @property
    def may_be_over(self) -> bool:
        """Whether the peer may be over with it, and only its last acknowledgement be missing."""
        return self.fin_seen and self.half is not SendingHalf.OPEN

    @property
    def place(self) -> Place:
        """What an offer says of it."""
        return Place(self.service_id, self.stream_id, self.connection_id, self.progress)

    # -- sending ------------------------------------------------------------------------------

    @property
    def kept(self) -> int:
        """Bytes that were sent and are not acknowledged."""
        return self.sent - self.replay.base

    def keep(self, block: Block, message: memoryview, size: int) -> Block:
        """Keep a large message in the block that it was sent from, which must not change any more.

        Return another one to read into.
        """
        self.small_room = self.replay.keep(block, message, size, self.sent)
        return self.replay.memory.take_block()

    def count_small(self) -> None:
        """Count the small messages that are kept; some more may be sent then."""
        self.small_room = self.replay.count(self.sent)

    def next_unsent(self, limit: int) -> memoryview:
        """Return messages that have to be sent next, and count them as sent.

        That is at least one message, and as many as there are in ``limit`` bytes.
        """
        messages, size = self.replay.next(limit)
        self.unsent -= size
        return messages

    def end(self) -> None:
        """Note that the local end has sent its last byte."""
        if self.half is SendingHalf.OPEN:
            self.half = SendingHalf.ENDED
            self.limit = self.sent
            self.room = 0

    @property
    def fin_is_due(self) -> bool:
        """Whether a FIN has to be sent, at ``sent``; then call :meth:`fin_sent`."""
        return self.half is SendingHalf.ENDED and self.is_open and not self.unsent

    def fin_sent(self) -> None:
        """Note that the FIN was sent on this link."""
        self.half = SendingHalf.TOLD

    def acknowledged(self, progress: Progress) -> None:
        """Take an acknowledgement, of a message or an offer.

        Raises:
            RemoteProtocolError: it takes back an earlier one, or is of what was not sent.
        """
        received, limit, fin_seen = progress
        base, at = self.replay.base, self.sent - self.unsent
        if not base <= received <= at:
            raise RemoteProtocolError(f"{received} bytes acknowledged of {base} to {at} for {self}")
        if fin_seen and (self.half is SendingHalf.OPEN or received != self.sent):
            raise RemoteProtocolError(f"an end acknowledged that was not sent for {self}")
        self.replay.trim(received, self.sent)
        if received == self.sent:
            self.small_room = 0
        more = min(limit, received + MAX_WINDOW) - self.limit
        if more > 0 and self.half is SendingHalf.OPEN:
            self.limit += more
            self.room += more
        if fin_seen:
            self.half = SendingHalf.ACKNOWLEDGED

    # -- receiving ----------------------------------------------------------------------------

    @property
    def progress(self) -> Progress:
        """What an acknowledgement says now; call :meth:`progress_told` when it is sent."""
        return Progress(self.received, self.received - self.waiting + self.window, self.fin_seen)

    def mark_reached(self) -> None:
        """Judge what has come, at ``ack_at`` or before.

        Raises:
            RemoteProtocolError: it is more than was allowed, or behind the end.
        """
        if self.received > self._allowed or self.fin_seen:
            raise RemoteProtocolError(f"more bytes than were allowed came for {self}")
        if not self.owes:
            self.owes = True
            self.replay.memory.owing += 1
        self._set_mark()

    def fin_arrived(self, offset: int) -> None:
        """Note that the peer has sent its last byte.

        Raises:
            RemoteProtocolError: it is not the one that came last, or it is told twice.
        """
        if offset != self.received or self.fin_seen:
            raise RemoteProtocolError(f"an end at {offset}, not at {self.received}, for {self}")
        self.fin_seen = True
        self.ack_at = 0

    @property
    def has_news(self) -> bool:
        """Whether something has come since the last acknowledgement."""
        return self.received > self._told.received

    @property
    def acknowledgement_is_due(self) -> bool:
        """Whether enough has changed for an acknowledgement."""
        if not self.is_open:
            return False
        received, limit, fin_seen = self._told
        return (
            self.received - received >= self._step
            or self.received - self.waiting + self.window - limit >= self.window // 2
            or self.fin_seen is not fin_seen
        )

    def progress_told(self) -> None:
        """Note that an acknowledgement was sent."""
        self._told = self.progress
        self._allowed = self._told.limit
        if self.owes and not self.fin_seen:
            self._set_mark()
        else:
            self.owe_nothing()

    def owe_nothing(self) -> None:
        """Note that all is acknowledged, or will be; what comes next is looked at."""
        if self.owes:
            self.owes = False
            self.replay.memory.owing -= 1
        if not self.fin_seen:
            self.ack_at = self.received + 1

    def _set_mark(self) -> None:
        self.ack_at = min(self._told.received + self._step, self._allowed + 1)

    @property
    def _step(self) -> int:
        """Bytes after which an acknowledgement is due."""
        share = _OWED_BY_ALL // max(self.replay.memory.owing, 1)
        return min(self.window // 2, _OWED_BY_ONE, share)

    def widen(self) -> None:
        """Let more come ahead, after half a window that the local end has kept up with."""
        if not self.waiting and self.received >= self._widens_at:
            share = _SHARED_WINDOW // max(self.replay.memory.owing, 1)
            self.window = max(self.window, min(2 * self.window, MAX_WINDOW, share))
            self._widens_at = self.received + self.window // 2

    # -- links --------------------------------------------------------------------------------

    def begin(self) -> None:
        """Let messages be sent: both ends have agreed, and the service knows the stream."""
        self.is_open = True

    def suspend(self) -> None:
        """Send nothing: there is no agreement any more on what has come."""
        self.is_open = False

    def go_on(self, progress: Progress | None) -> None:
        """Go on where the peer stands; ``None`` if it has not heard of the connection.

        Raises:
            RemoteProtocolError: as :meth:`acknowledged`.
        """
        self.unsent = 0
        if progress is not None:
            self.acknowledged(progress)
        self.replay.rewind(self.sent)
        self.unsent = self.kept
        if self.half is SendingHalf.TOLD:
            self.half = SendingHalf.ENDED
        self._told = _NOTHING
        self.owe_nothing()

    def close(self) -> None:
        """Keep nothing any more."""
        self.is_open = False
        self.unsent = 0
        self.replay.close()
        self.owe_nothing()

    def __repr__(self) -> str:
        return f"connection {self.service_id or '-'}/{self.stream_id}/{self.connection_id}"
