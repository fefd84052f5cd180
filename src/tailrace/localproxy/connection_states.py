"""The states of a local connection, and which may follow which.

====================  ==================================  =================================
state                 bytes of the local end              bytes of the tunnel
====================  ==================================  =================================
DIALING               there is no local end yet           wait
OPEN                  are read and sent                   are written, or wait
PARKED                stay where they are: they are       are written, or wait
                      sent when it is its turn
PAUSED                stay where they are: the peer       are written, or wait
                      takes nothing, or is not there
HALF_CLOSED           there are no more                   are written, or wait
FLUSHING              stay, and are lost                  have ended; what waits is written
CLOSING               are read and dropped                have all been written
RESETTING             stay, and are lost                  have all been written
CLOSED                are lost                            are lost
====================  ==================================  =================================

Where the connection outlives links, both halves end as those of TCP do. An end of file at the local
end leads to HALF_CLOSED, and only there is the peer told; ``peer_finished`` ends our half as soon
as everything received is written, in whatever state. Nothing ends by silence, and the owner calls
``tunnel_ended`` when both halves have ended. While there is no link it is PAUSED. What the peer has
not received by then is sent again, in turns, before the local end is read (PARKED) or is said to
have ended (HALF_CLOSED).

An end of file at the local end means that the connection ended in order, and nothing else does:
what was cut ends with a reset, after everything received has been delivered. A reset destroys
what has not reached the other end, so RESETTING waits until that is all acknowledged. Where it
cannot be, because the local end takes nothing or all is aborted, a reset also tells of the loss.

Who changes them, and when, is told by :mod:`.local_connection`.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeAlias

__all__ = ["LIVE", "NEXT", "READ", "ConnectionState"]


class ConnectionState(Enum):
    """Life of a local connection.

    Example: ``if connection.state is tailrace.ConnectionState.PAUSED: ...``
    """

    DIALING = "dialing"
    """Destination: the application is being connected."""
    OPEN = "open"
    PARKED = "parked"
    """It has something to send and waits for its turn."""
    PAUSED = "paused"
    """The peer's local end takes nothing, so ours is not read; its end is noticed later."""
    HALF_CLOSED = "half-closed"
    """The local client has ended its sending half; it still receives for a while."""
    FLUSHING = "flushing"
    """The connection has ended in the tunnel; what came before is still being delivered."""
    CLOSING = "closing"
    """Everything is delivered and our half is shut; waiting for the local end to close."""
    RESETTING = "resetting"
    """The connection was cut; waiting until all that was written has reached the local end."""
    CLOSED = "closed"

    # Enum's own is a call in Python, for each look at a set of states.
    __hash__ = object.__hash__


_S: TypeAlias = ConnectionState

NEXT: Final[dict[ConnectionState, frozenset[ConnectionState]]] = {
    _S.DIALING: frozenset({_S.OPEN, _S.PAUSED, _S.FLUSHING, _S.CLOSED}),
    _S.OPEN: frozenset({_S.PARKED, _S.PAUSED, _S.HALF_CLOSED, _S.FLUSHING, _S.CLOSED}),
    _S.PARKED: frozenset({_S.OPEN, _S.PAUSED, _S.HALF_CLOSED, _S.FLUSHING, _S.CLOSED}),
    _S.PAUSED: frozenset({_S.OPEN, _S.PARKED, _S.FLUSHING, _S.CLOSED}),
    _S.HALF_CLOSED: frozenset({_S.FLUSHING, _S.CLOSED}),
    _S.FLUSHING: frozenset({_S.CLOSING, _S.RESETTING, _S.CLOSED}),
    _S.CLOSING: frozenset({_S.CLOSED}),
    _S.RESETTING: frozenset({_S.CLOSED}),
    _S.CLOSED: frozenset(),
}

LIVE: Final = frozenset({_S.OPEN, _S.PARKED, _S.PAUSED, _S.HALF_CLOSED})
"""States with a local end and a connection in the tunnel."""
READ: Final = frozenset({_S.OPEN, _S.CLOSING})
"""States in which the local end is read."""
