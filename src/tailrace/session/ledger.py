"""The books of one connection that outlives links: what was sent, received and taken.

A link delivers everything in order or ends. So both ends count the bytes of a connection alike,
and messages need not carry offsets: when a link is lost, the receiver says how many have come, and
the sender goes on from there.

The receiver also says how much may be sent in all: what its local end has taken, and a window.
That limit bounds what waits at the receiver and what the sender keeps for a replay, however long
the link is down: an end whose local program sends on stops reading it. An end that has heard
nothing may send :data:`FIRST_LIMIT` bytes, so that no connection begins with a round trip.

Each direction ends by itself, at an offset.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from ..errors import LocalProtocolError, RemoteProtocolError
from ..wire import Place, Progress
from .replay import ReplayBuffer

__all__ = ["FIRST_LIMIT", "Ledger", "SendingHalf"]

FIRST_LIMIT: Final = 256 * 1024
"""Bytes that may be sent before the first acknowledgement; the smallest window, too."""
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


class Ledger:
    """One connection, at one end. It has no opinion on whether there is a link.

    Sending: :meth:`record` what is sent, at most :attr:`credit`. Where :attr:`is_open`, send it on;
    what is :attr:`unsent` comes first. :meth:`end` after the last byte, and send a FIN where
    :attr:`fin_is_due`.

    Receiving: :meth:`arrived` and :meth:`fin_arrived` for what comes, :meth:`taken` for what the
    local end takes. Send an acknowledgement where :attr:`acknowledgement_is_due`.
    """

    __slots__ = (
        "_told",
        "at",
        "connection_id",
        "consumed",
        "credit",
        "fin_seen",
        "half",
        "has_begun",
        "is_open",
        "received",
        "replay",
        "service_id",
        "stream_id",
        "window",
    )

    def __init__(
        self, service_id: str, stream_id: int, connection_id: int, window: int = FIRST_LIMIT
    ) -> None:
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
        self.replay = ReplayBuffer()
        self.at = 0
        """How far the peer has been sent everything, on this link or an earlier one."""
        self.credit = FIRST_LIMIT
        """Bytes that may be recorded now: what the peer allows, and none behind the end."""
        self.half = SendingHalf.OPEN
        self.received = 0
        self.consumed = 0
        """Bytes that the local end has taken."""
        self.fin_seen = False
        self._told = Progress(0, FIRST_LIMIT, fin_seen=False)

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
    def unsent(self) -> int:
        """Bytes that are recorded, and have to be sent on this link before any others."""
        return self.replay.end - self.at

    def record(self, data: memoryview) -> None:
        """Keep what is sent, or will be.

        Raises:
            LocalProtocolError: it is more than the credit, or behind the end.
        """
        size = len(data)
        if size > self.credit:
            raise LocalProtocolError(f"{size} bytes are more than may be sent for {self}")
        self.credit -= size
        self.replay.append(data)

    def next_unsent(self, limit: int) -> bytes:
        """Return up to ``limit`` bytes that have to be sent next, and count them as sent."""
        data = self.replay.read(self.at, limit)
        self.at += len(data)
        return data

    def end(self) -> None:
        """Note that the local end has sent its last byte."""
        if self.half is SendingHalf.OPEN:
            self.half = SendingHalf.ENDED
            self.credit = 0

    @property
    def fin_is_due(self) -> bool:
        """Whether a FIN has to be sent, at ``replay.end``; then call :meth:`fin_sent`."""
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
        replay = self.replay
        if not replay.base <= received <= self.at:
            raise RemoteProtocolError(
                f"{received} bytes acknowledged of {replay.base} to {self.at} for {self}"
            )
        if fin_seen and (self.half is SendingHalf.OPEN or received != replay.end):
            raise RemoteProtocolError(f"an end acknowledged that was not sent for {self}")
        replay.trim(received)
        if self.half is SendingHalf.OPEN:
            self.credit = max(self.credit, limit - replay.end)
        if fin_seen:
            self.half = SendingHalf.ACKNOWLEDGED

    # -- receiving ----------------------------------------------------------------------------

    @property
    def progress(self) -> Progress:
        """What an acknowledgement says now; call :meth:`progress_told` when it is sent."""
        return Progress(self.received, self.consumed + self.window, self.fin_seen)

    def arrived(self, size: int) -> None:
        """Note that ``size`` bytes have come.

        Raises:
            RemoteProtocolError: they are more than was allowed, or behind the end.
        """
        received = self.received + size
        if received > self.consumed + self.window or self.fin_seen:
            raise RemoteProtocolError(f"{size} bytes more than were allowed came for {self}")
        self.received = received

    def fin_arrived(self, offset: int) -> None:
        """Note that the peer has sent its last byte.

        Raises:
            RemoteProtocolError: it is not the one that came last.
        """
        if offset != self.received:
            raise RemoteProtocolError(f"an end at {offset}, not at {self.received}, for {self}")
        self.fin_seen = True

    def taken(self, size: int) -> None:
        """Note that the local end has taken ``size`` bytes of those that have come."""
        self.consumed += size
        assert self.consumed <= self.received

    @property
    def acknowledgement_is_due(self) -> bool:
        """Whether enough has changed for an acknowledgement: a quarter of the window."""
        if not self.is_open:
            return False
        received, limit, fin_seen = self._told
        step = self.window // 4
        return (
            self.received - received >= step
            or self.consumed + self.window - limit >= step
            or self.fin_seen is not fin_seen
        )

    def progress_told(self) -> None:
        """Note that an acknowledgement was sent."""
        self._told = self.progress

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
        self.at = self.replay.base
        if self.half is SendingHalf.TOLD:
            self.half = SendingHalf.ENDED
        self._told = _UNTOLD

    def __repr__(self) -> str:
        return f"connection {self.service_id or '-'}/{self.stream_id}/{self.connection_id}"
