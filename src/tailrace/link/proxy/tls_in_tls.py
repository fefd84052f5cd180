"""A plain socket in front of a TLS connection.

A link does TLS on a socket of its own. Through a web proxy that is reached over TLS there is no
such socket, as the connection to the service is inside that TLS. So one end of a pair of sockets
takes its place, and a bridge carries the bytes between the other end and the outer connection.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Final, cast

from ...common.readiness import is_over
from ..exchange import Exchange, Handover
from ..tls.transport import close_transport

__all__ = ["Bridge"]

_HIGH_WATER: Final = 64 * 1024
"""Bytes of a write buffer here at which the other side is no longer read."""

_SOCKET_BUFFER: Final = 64 * 1024
"""Bytes that wait between the ends of the pair: more would only delay what comes after them."""

_WATCH: Final = 1.0
"""Seconds between polls of an end that is not read: reading is what would show that it closed."""


class Bridge:
    """Carries the bytes; ends by itself, with the connection or with the socket.

    Back-pressure passes through both ways. When the connection ends, what has come is still
    delivered (except over uvloop's own TLS, which drops what it holds if it is paused just then).
    When the socket is closed, what was written to it is still sent, for the time that the
    transport allows for closing. TLS has no half-close: a socket that is shut down for
    writing counts as closed.
    """

    def __init__(self, exchange: Exchange) -> None:
        """Prepare to take over a connection on which CONNECT is done; :meth:`open` does it."""
        self._exchange = exchange
        self._far = _Side()
        self._near = _NearSide()
        self._far.other, self._near.other = self._near, self._far
        self._far.transport = exchange.transport

    async def open(self) -> socket.socket:
        """Return the socket, non-blocking. The connection is dropped when this raises."""
        try:
            sock = await self._open_pair()
        except BaseException:
            self._exchange.transport.abort()
            raise
        self._far.take_over(self._exchange.hand_over(self._far))
        return sock

    async def _open_pair(self) -> socket.socket:
        pair = socket.socketpair()
        theirs = pair[1]
        ours = _StandIn(fileno=pair[0].detach())
        try:
            for end in (ours, theirs):
                end.setblocking(False)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
            await self._near.attach(theirs)
        except BaseException:
            ours.close()
            theirs.close()
            raise
        return ours


class _StandIn(socket.socket):
    """The end of the pair that takes the place of a TCP socket: accepts TCP's options."""

    def setsockopt(self, *args: Any) -> None:
        if args[0] != socket.IPPROTO_TCP:
            super().setsockopt(*args)

    def getsockopt(self, *args: Any) -> Any:
        return 0 if args[0] == socket.IPPROTO_TCP else super().getsockopt(*args)


class _Side(asyncio.Protocol):
    """One side of the bridge: what comes in here goes out at the other one."""

    other: _Side
    transport: asyncio.Transport

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reading = True
        self._reading_wanted = True
        self._is_gone = False

    def take_over(self, missed: Handover) -> None:
        """Catch up on what happened before this was the protocol of the transport."""
        self._limit_buffer()
        if missed.received:
            self.data_received(missed.received)
        if missed.writing_paused:
            self.pause_writing()
        if missed.lost:
            self.connection_lost(missed.error)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._limit_buffer()

    def data_received(self, data: bytes) -> None:
        self.other.write(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._is_gone = True
        self.other.close()

    def pause_writing(self) -> None:
        self.other.want_reading(False)

    def resume_writing(self) -> None:
        self.other.want_reading(True)

    def write(self, data: bytes) -> None:
        """Send bytes of the other side."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def want_reading(self, wanted: bool) -> None:
        """Read or do not read, from the next turn of the event loop on."""
        self._reading_wanted = wanted
        # Not from within a read: see tailrace.link.tls.aiofastnet_compat.
        self._loop.call_soon(self._apply_reading)

    def close(self) -> None:
        """Send what was written, then close."""
        if not self._reading and not self._is_gone:
            # TLS cannot close without reading the other side's answer.
            self._reading = True
            self.transport.resume_reading()
        close_transport(self.transport)

    def _limit_buffer(self) -> None:
        self.transport.set_write_buffer_limits(high=_HIGH_WATER)

    def _apply_reading(self) -> None:
        if self.transport.is_closing() or self._reading is self._reading_wanted:
            return
        self._reading = self._reading_wanted
        if self._reading:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()


class _NearSide(_Side):
    """The bridge's end of the pair."""

    def __init__(self) -> None:
        super().__init__()
        self._watch: asyncio.TimerHandle | None = None
        self._sock: socket.socket

    async def attach(self, sock: socket.socket) -> None:
        """Become the protocol of a transport over ``sock``."""
        self._sock = sock
        await self._loop.create_connection(lambda: self, sock=sock)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def _apply_reading(self) -> None:
        super()._apply_reading()
        self._stop_watching()
        if not self._reading and not self._is_gone:
            self._watch = self._loop.call_later(_WATCH, self._look)

    def _look(self) -> None:
        if is_over(self._sock):
            self.transport.abort()
        else:
            self._watch = self._loop.call_later(_WATCH, self._look)

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
