"""Keep what belongs to old streams of a client away from a new peer.

When the link of a source ends, the relay resets its streams at the destination. What the
destination sent before it read those resets is still on its way, and a new source may be
connected already. Ids start again with each link, so that this source is likely to use the
same stream ids for the same services: the late data would be taken for that of its own
streams, and bytes of one session would appear in another.

So the relay sends the destination a ping after the resets. A client reads frames in order
and answers the ping when it has read the resets (RFC 6455 section 5.5.3); what it sends
after its pong can no longer belong to an old stream, and what arrives before the pong may.
Between ping and pong the fence is up. The invariant: while it is up, nothing from the
destination is passed on.

Two things make it less simple. A pong is seen when it arrives, but messages that came
before it may wait in a backlog (:mod:`.turn_budget`): its place is then the end of the
backlog at that moment, and the fence comes down when everything up to there has been
dropped. And a client may answer no pings at all: after two sweeps it is listened to again.

Most sources need no fence. They number the streams, so that the relay knows from the ids of a
message whether it belongs to one that is open. But a source that goes on by itself when its peer
has left starts its streams again under the ids that they had, and what it sent before it knew that
a peer has left must not reach the next one. So it gets a ping behind PEER_LEFT.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Fence"]

_MAX_SWEEPS: Final = 2
"""Sweeps after which a client that answers no ping is listened to again."""


class Fence:
    """The fence of one client. While it :attr:`is_up`, drop what the client sends."""

    __slots__ = ("_count", "_end", "_ping", "_sweeps", "is_up")

    def __init__(self) -> None:
        self.is_up = False
        self._count = 0
        self._ping = b""
        self._end: int | None = None
        """Where in the backlog the pong came; ``None`` while it has not."""
        self._sweeps = 0

    def put_up(self) -> bytes:
        """Put the fence up, or up again; return the payload of the ping to send at once."""
        self._count += 1
        self._ping = str(self._count).encode()
        self._end = None
        self._sweeps = 0
        self.is_up = True
        return self._ping

    def pong_received(self, payload: bytes, backlog_end: int) -> None:
        """Take any pong of the client; ``backlog_end`` is where its backlog ends, 0 for none."""
        if self.is_up and payload == self._ping:
            if backlog_end:
                self._end = backlog_end
            else:
                self.is_up = False

    def limit(self, backlog_end: int) -> int:
        """Return how far the backlog may be passed on before :meth:`passed` must be called."""
        return backlog_end if self._end is None else self._end

    def passed(self, at: int) -> None:
        """Note that the backlog was passed on up to ``at``."""
        if at == self._end:
            self._end = None
            self.is_up = False

    def sweep(self) -> None:
        """Give up waiting, some calls after :meth:`put_up`; call it every few seconds."""
        self._sweeps += 1
        if self._sweeps >= _MAX_SWEEPS:
            self.is_up = False
