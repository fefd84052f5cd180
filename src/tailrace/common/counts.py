"""Numbers that the extension and Python share: the same objects, whoever adds to them.

The classes that need more inherit from these. Where there is no extension, they are plain Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .extension import why_not

__all__ = ["ByteCounts", "Meter", "Pump", "Tally", "TurnMeter", "Way"]

if TYPE_CHECKING or why_not():

    class Meter:
        """Bytes sent, and the mark at which the one who counts has to look."""

        __slots__ = ("mark", "sent")

        sent: int
        mark: int

    class TurnMeter:
        """What may still be done in a turn, and the mark below which its owner has to look."""

        __slots__ = ("heard", "left", "mark")

        left: int
        mark: int
        heard: bool

    class Tally:
        """Messages and bytes that have passed."""

        __slots__ = ("bytes", "messages")

        messages: int
        bytes: int

    class ByteCounts:
        """The bytes of a connection, see :class:`~tailrace.session.Counts`."""

        __slots__ = ("ack_at", "limit", "received", "room", "small_room", "waiting")

        ack_at: int
        limit: int
        received: int
        room: int
        small_room: int
        waiting: int

    class Way:
        """The way from local sockets to the link."""

        __slots__ = ("block", "budget", "gap", "outlet")

        block: Any
        budget: int
        gap: int
        outlet: Any
        """What messages are sent on without Python, where that can be."""

    class Pump:
        """A local connection as far as the bytes of its socket are concerned."""

        __slots__ = ("_counts", "_outbound", "_replay", "connection", "fd", "takes")

        connection: Any
        _counts: Any
        _outbound: Any
        _replay: Any
        fd: int
        """The descriptor of a socket that may be read and written without Python, or -1."""
        takes: bool
        """Whether it may be written so now."""

        def readable(self) -> None:
            """Called when there is something to read; without the extension nobody does."""
            raise NotImplementedError

else:
    from .._core import ByteCounts, Meter, Pump, Tally, TurnMeter, Way
