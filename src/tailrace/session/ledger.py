"""The books of one connection: what was sent, received and taken.

A link delivers everything in order or ends. So both ends count the bytes of a connection alike,
and messages need not carry offsets: when a link is lost, the receiver says how many have come, and
the sender goes on from there.

The receiver also says how much may be sent in all: what its local end has taken, and a window.
That limit bounds what waits at the receiver and what the sender keeps for a replay, however long
the link is down: an end whose local program sends on stops reading it. An end that has heard
nothing may send :data:`FIRST_LIMIT` bytes, so that no connection begins with a round trip. The
window doubles for as long as the local end keeps up with what comes.

Each direction ends by itself, at an offset.

Bytes are counted for each message, so :class:`Counts` are plain numbers that those who move the
bytes add to. All else is done at marks: what is sent stops at ``limit``, and what comes is looked
at when it reaches ``ack_at``.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from ..errors import LocalProtocolError, RemoteProtocolError
from ..wire import Place, Progress
from .replay import ReplayBuffer, ReplayMemory

__all__ = ["FIRST_LIMIT", "MAX_WINDOW", "UNLIMITED", "Counts", "Ledger", "SendingHalf"]

FIRST_LIMIT: Final = 256 * 1024
"""Bytes that may be sent before the first acknowledgement; the smallest window, too."""
MAX_WINDOW: Final = 4 * 1024 * 1024
_LEAST_STEP: Final = 8 * 1024
UNLIMITED: Final = 1 << 63
"""A mark that is never reached."""
_UNTOLD: Final = Progress(0, 0, fin_seen=False)
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


class Counts:
    """The bytes of a connection; all there is to count for one that ends with its link."""

    __slots__ = ("ack_at", "limit", "received", "sent", "waiting")

    def __init__(self, limit: int = UNLIMITED, ack_at: int = UNLIMITED) -> None:
        self.sent = 0
        """Bytes that the local end has sent."""
        self.limit = limit
        """Bytes that it may send in all."""
        self.received = 0
        """Bytes that have come from the peer."""
        self.waiting = 0
        """Those of them that the local end has not taken."""
        self.ack_at = ack_at
        """``received`` at which, or above, :meth:`Ledger.mark_reached` is to be called."""


class Ledger(Counts):
    """One connection that outlives links, at one end. It has no opinion on whether there is one.

    Sending: add to ``sent``, up to ``limit``, what is sent where :attr:`is_open`, and keep it in
    the :attr:`replay`, but send first what is :attr:`unsent`. :meth:`end` after the last byte, and
    send a FIN where :attr:`fin_is_due`.

    Receiving: add what comes to ``received``, and to ``waiting`` what the local end does not take
    at once. Send an acknowledgement where :attr:`acknowledgement_is_due`, and some time after a mark
    where it still :attr:`has_unacknowledged` bytes: the peer keeps them.
    """

    __slots__ = (
        "_allowed",
        "_told",
        "connection_id",
        "fin_seen",
        "half",
        "has_begun",
        "is_open",
        "replay",
        "service_id",
        "stream_id",
        "unsent",
        "window",
    )

    def __init__(
        self,
        service_id: str,
        stream_id: int,
        connection_id: int,
        memory: ReplayMemory,
        window: int = FIRST_LIMIT,
    ) -> None:
        super().__init__(FIRST_LIMIT, 1)
        self.service_id = service_id
        self.stream_id = stream_id
        self.connection_id = connection_id
        self.is_open = False
        """Whether messages may be sent for the connection: both ends have agreed, and the service
        knows its stream."""
        self.has_begun = False
        """Whether that has ever been so."""
        self.window = window
        """Bytes that the peer may send ahead of what the local end has taken; it never shrinks."""
        self.replay = ReplayBuffer(memory)
        self.unsent = 0
        """The last bytes of those that are kept, which were not sent on this link."""
        self.half = SendingHalf.OPEN
        self.fin_seen = False
        self._told = Progress(0, FIRST_LIMIT, fin_seen=False)
        """What the peer knows of the receiving half."""
        self._allowed = FIRST_LIMIT
        """Bytes that it may send in all."""

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

    def record(self, data: memoryview) -> None:
        """Keep what is to be sent.

        Raises:
            LocalProtocolError: it is more than may be sent, or behind the end.
        """
        size = len(data)
        if self.sent + size > self.limit:
            raise LocalProtocolError(f"{size} bytes are more than may be sent for {self}")
        self.sent += size
        self.unsent += size
        self.replay.tail += data
        self.replay.memory.size += size

    def next_unsent(self, limit: int) -> bytes:
        """Return up to ``limit`` bytes that have to be sent next, and count them as sent."""
        data = self.replay.read(self.sent - self.unsent, min(limit, self.unsent))
        self.unsent -= len(data)
        return data

    def end(self) -> None:
        """Note that the local end has sent its last byte."""
        if self.half is SendingHalf.OPEN:
            self.half = SendingHalf.ENDED
            self.limit = self.sent

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
        self.replay.trim(received)
        if self.half is SendingHalf.OPEN:
            self.limit = max(self.limit, limit)
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
        self.ack_at = min(self._told.received + self._step, self._allowed + 1)

    def fin_arrived(self, offset: int) -> None:
        """Note that the peer has sent its last byte.

        Raises:
            RemoteProtocolError: it is not the one that came last.
        """
        if offset != self.received:
            raise RemoteProtocolError(f"an end at {offset}, not at {self.received}, for {self}")
        self.fin_seen = True
        self.ack_at = 0

    @property
    def _step(self) -> int:
        """Bytes of progress that are worth an acknowledgement.

        They are kept at the peer, and must not fill its memory for all connections.
        """
        share = self.replay.memory.share // 2
        return max(min(self.window // 2, share), _LEAST_STEP)

    @property
    def has_unacknowledged(self) -> bool:
        """Whether bytes have come that no acknowledgement on this link was sent for."""
        return self.is_open and self.received != self._told.received

    @property
    def acknowledgement_is_due(self) -> bool:
        """Whether enough has changed for an acknowledgement."""
        if not self.is_open:
            return False
        received, limit, fin_seen = self._told
        step = self._step
        return (
            self.received - received >= step
            or self.received - self.waiting + self.window - limit >= step
            or self.fin_seen is not fin_seen
        )

    def progress_told(self) -> None:
        """Note that an acknowledgement was sent."""
        self._told = self.progress
        self._allowed = self._told.limit
        if not self.fin_seen:
            self.ack_at = self.received + 1

    def widen(self) -> None:
        """Let more come ahead, after a window that the local end has kept up with."""
        if not self.waiting:
            self.window = min(2 * self.window, MAX_WINDOW)

    # -- links --------------------------------------------------------------------------------

    def begin(self) -> None:
        """Let messages be sent: both ends have agreed, and the service knows the stream."""
        self.is_open = self.has_begun = True

    def suspend(self) -> None:
        """Send nothing: there is no agreement any more on what has come."""
        self.is_open = False

    def go_on(self, progress: Progress | None) -> None:
        """Go on where the peer stands; ``None`` if it has not heard of the connection.

        Raises:
            RemoteProtocolError: as :meth:`acknowledged`.
        """
        if progress is not None:
            self.acknowledged(progress)
        self.unsent = self.kept
        if self.half is SendingHalf.TOLD:
            self.half = SendingHalf.ENDED
        self._told = _UNTOLD

    def close(self) -> None:
        """Keep nothing any more."""
        self.is_open = False
        self.unsent = 0
        self.replay.trim(self.sent)

    def __repr__(self) -> str:
        return f"connection {self.service_id or '-'}/{self.stream_id}/{self.connection_id}"
