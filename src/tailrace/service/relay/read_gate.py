"""Whether the socket of a link is read.

There are several reasons not to read a link for a while (:class:`ReadBlock`), and they come
and go independently. The gate is the set of those that hold, with one invariant: **the
socket is read exactly while the set is empty**. So nothing can resume what was paused for
another reason, and blocking twice for one reason is undone by unblocking once.

Not reading is the only thing the relay does to slow a client down. TCP does the rest: its
receive window closes (RFC 9293 section 3.8.6), and the client cannot send.

The transport follows in the next turn of the loop. It must not be paused from within a
read, where it would go on delivering what it has decrypted already, unless it is known to
stop (:attr:`ReadGate.can_pause_in_read`).
"""

from __future__ import annotations

import asyncio
import socket
from enum import Enum
from typing import Final

import aiofastnet

from ..telemetry.counters import StallClock
from .read_limiter import FULL_READ, SMALL_READ, ReadLimiter

__all__ = ["ReadBlock", "ReadGate"]

_RETRY: Final = "_retry_ssl_read"
"""How aiofastnet 1.2 is told to look at what it has received but not decrypted yet. It does
not by itself when reading was paused from within a read, until the client sends again."""


class ReadBlock(Enum):
    """A reason not to read a link."""

    OVER_BUDGET = "over budget"
    """The link has used up its turn, and a backlog waits."""
    PEER_BLOCKED = "peer blocked"
    """The other side cannot pass on any more."""
    THROTTLED = "throttled"
    """The tunnel has used more bandwidth than it has."""


class ReadGate:
    """The gate of one link. Call :meth:`attach` before anything else, :meth:`detach` last."""

    __slots__ = ("_limiter", "_reasons", "_stall_began", "_stalls", "_transport", "is_reading")

    def __init__(self, stalls: StallClock) -> None:
        self._stalls = stalls
        self._stall_began = 0.0
        self._reasons: set[ReadBlock] = set()
        self._transport: asyncio.Transport | None = None
        self._limiter: ReadLimiter | None = None
        self.is_reading = True
        """Whether the transport reads, which may lag behind :attr:`is_open`."""

    @property
    def is_open(self) -> bool:
        """Whether the link is to be read."""
        return not self._reasons

    @property
    def can_pause_in_read(self) -> bool:
        """Whether the transport stops at once when it is paused from within a read."""
        return self._limiter is not None

    def attach(self, transport: asyncio.Transport) -> None:
        """Decide about ``transport`` from now on, and limit its reads if it can be made to."""
        self._transport = transport
        if not isinstance(transport, aiofastnet.Transport):
            return
        if hasattr(transport, _RETRY) or transport.get_extra_info("ssl_object") is None:
            inner = transport.get_protocol()
            assert isinstance(inner, asyncio.BufferedProtocol)
            self._limiter = ReadLimiter(inner)
            transport.set_protocol(self._limiter)

    def detach(self) -> None:
        """Forget the transport: the connection is gone."""
        self._transport = self._limiter = None

    def block(self, reason: ReadBlock) -> bool:
        """Read no more for ``reason``; return whether that closes the gate."""
        was_open = not self._reasons
        self._reasons.add(reason)
        if was_open:
            self._stall_began = self._stalls.begin()
            asyncio.get_running_loop().call_soon(self.apply)
        return was_open

    def unblock(self, *reasons: ReadBlock) -> bool:
        """Drop reasons; return whether that opens the gate."""
        was_open = not self._reasons
        self._reasons.difference_update(reasons)
        if was_open or self._reasons:
            return False
        self._stalls.end(self._stall_began)
        asyncio.get_running_loop().call_soon(self.apply)
        return True

    def limit_reads(self, small: bool) -> None:
        """Let one read bring little, for a client whose frames are tiny, or much."""
        if self._limiter is not None:
            self._limiter.read_size = SMALL_READ if small else FULL_READ

    def apply(self) -> None:
        """Make the transport follow at once, and not in the next turn of the loop."""
        transport = self._transport
        if transport is None or self.is_reading is self.is_open:
            return
        self.is_reading = self.is_open
        if self.is_reading:
            transport.resume_reading()
            retry = getattr(transport, _RETRY, None)
            if retry is not None:
                retry()
        else:
            transport.pause_reading()

    def look_again(self) -> None:
        """Have a connection that was reset read to its end; call it every few seconds.

        libuv tells of an error once, and aiofastnet reads once when told: if bytes were left then,
        the error would never be seen. To ask for it clears it, and what is left is an end of file.
        """
        transport = self._transport
        # Before the link is told that it was lost, its socket may be gone.
        if transport is None or not self.is_reading or transport.is_closing():
            return
        if transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            transport.pause_reading()
            transport.resume_reading()
