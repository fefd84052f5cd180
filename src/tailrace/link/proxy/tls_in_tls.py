"""A plain socket for what really is a TLS connection.

The link gives its socket to TLS. Behind a web proxy that is itself spoken to over TLS there
is no socket that holds nothing but the way to the service, so one end of a pair of sockets
stands in for it, and the bytes at the other end travel over the TLS connection.
"""

from __future__ import annotations

import asyncio
import select
import socket
from typing import Any, Final, cast

from ..tls.transport import UpgradeTap, close_transport

__all__ = ["Bridge"]

_HIGH_WATER: Final = 64 * 1024
"""Bytes of a write buffer here at which the other side is no longer read."""

_SOCKET_BUFFER: Final = 64 * 1024
"""Bytes that wait between the ends of the pair: more would only delay what comes after them."""

_WATCH: Final = 1.0
"""Seconds between looks at an end that is not read, and so cannot tell that it was closed."""


class Bridge:
    """Carries the bytes; ends by itself, with the connection or with the socket.

    Back-pressure passes through both ways. When the connection ends, what has come is still
    delivered (but for uvloop's own TLS, which drops what it holds if it is paused just then).
    When the socket is closed, what was written to it is still sent, for the time that the
    transport allows for closing. TLS has no half-close: a socket that is shut down for
    writing counts as closed.
    """

    def __init__(self, connection: asyncio.Transport) -> None:
        """Prepare; :meth:`open` does the work."""
        self._far = _Side()
        self._far.transport = connection
        self._near = _NearSide()
        self._far.other, self._near.other = self._near, self._far
        self._opened = False

    @property
    def error(self) -> BaseException | None:
        """Why the connection was lost; ``None`` after its plain end."""
        return self._far.error

    async def open(self, tap: UpgradeTap) -> socket.socket:
        """Return the socket, non-blocking; ``tap`` has been the connection's protocol so far."""
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
        self._opened = True
        self._far.take_over(tap)
        return ours

    def abort(self) -> None:
        """Drop both sides at once."""
        self._far.transport.abort()
        if self._opened:
            self._near.transport.abort()

    async def wait_closed(self) -> None:
        """Wait until both sides of an open bridge are gone."""
        await asyncio.wait([self._far.gone, self._near.gone])


class _StandIn(socket.socket):
    """Our end of the pair; stands in for a TCP socket with those who set options of TCP."""

    def setsockopt(self, *args: Any) -> None:
        if args[0] != socket.IPPROTO_TCP:
            super().setsockopt(*args)

    def getsockopt(self, *args: Any) -> Any:
        return 0 if args[0] == socket.IPPROTO_TCP else super().getsockopt(*args)


class _Side(asyncio.Protocol):
    """One side: what comes in here goes out at the other one."""

    other: _Side
    transport: asyncio.Transport

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reading = True
        self._reading_wanted = True
        self.error: BaseException | None = None
        self.gone: asyncio.Future[None] = self._loop.create_future()

    def take_over(self, tap: UpgradeTap) -> None:
        """Become the protocol of the transport in place of ``tap``."""
        self._limit_buffer()
        if tap.leftover:
            self.data_received(bytes(tap.leftover))
        if tap.writing_paused:
            self.pause_writing()
        if tap.lost:
            self.connection_lost(tap.error)
        else:
            self.transport.set_protocol(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._limit_buffer()

    def data_received(self, data: bytes) -> None:
        self.other.write(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.error = exc
        self.gone.set_result(None)
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
        # Never from within a read: aiofastnet 1.2 would strand what it has decrypted beyond
        # that point until the other side sends again.
        self._loop.call_soon(self._apply_reading)

    def close(self) -> None:
        """Send what was written, then close."""
        if not self._reading and not self.gone.done():
            # Or the other side's goodbye would go unseen.
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
    """Our end of the pair."""

    def __init__(self) -> None:
        super().__init__()
        self._watch: asyncio.TimerHandle | None = None
        self._poll = select.poll()

    async def attach(self, sock: socket.socket) -> None:
        """Become the protocol of a transport over ``sock``."""
        self._poll.register(sock, 0)  # whoever asks for nothing still learns of the end
        await self._loop.create_connection(lambda: self, sock=sock)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def _apply_reading(self) -> None:
        super()._apply_reading()
        self._stop_watching()
        if not self._reading and not self.gone.done():
            self._watch = self._loop.call_later(_WATCH, self._look)

    def _look(self) -> None:
        if self._poll.poll(0):
            self.transport.abort()
        else:
            self._watch = self._loop.call_later(_WATCH, self._look)

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
