"""One local socket and its place in the tunnel.

The sockets are driven directly through the loop's readiness callbacks and not through
asyncio transports: bytes are read behind a gap for the message header in a buffer all
connections share, and what a socket does not take at once is copied exactly once. (A
transport would own a buffer for each connection, and uvloop's keep views of memory that
is about to be reused.)
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from enum import Enum
from typing import Final, Protocol

from ..session import Connection
from ..wire import MAX_PAYLOAD, DataHeader
from .sockets import tune, unacknowledged

__all__ = ["ConnectionHost", "ConnectionState", "LocalConnection", "ReadBuffer"]

logger = logging.getLogger(__name__)

_DRAIN_TIMEOUT: Final = 5.0
"""Seconds a local peer has to close after everything was delivered to it."""
_MAX_PIECES: Final = 64
"""Pieces of waiting data handed to the kernel at once."""


class ConnectionState(Enum):
    """Life of a local connection."""

    DIALING = "dialing"
    """Destination: the application is being connected; data from the tunnel waits."""
    OPEN = "open"
    PAUSED = "paused"
    """The peer's local end takes nothing, so ours is not read; its end is noticed later."""
    HALF_CLOSED = "half-closed"
    """The local client has ended its sending half; it still receives for a while."""
    FLUSHING = "flushing"
    """The connection has ended in the tunnel; what came before is still being delivered."""
    CLOSING = "closing"
    """Everything is delivered and our half is shut; waiting for the local end to close."""
    CLOSED = "closed"


_LIVE: Final = (ConnectionState.OPEN, ConnectionState.PAUSED, ConnectionState.HALF_CLOSED)
"""States with a socket and a connection in the tunnel."""


class ReadBuffer:
    """The one buffer all connections of a tunnel read into.

    A read is sent before the next one starts, so one buffer serves any number of
    connections. The gap in front takes the message header.
    """

    GAP: Final = DataHeader.MAX_SIZE

    def __init__(self, max_payload: int = MAX_PAYLOAD) -> None:
        self.memory = bytearray(self.GAP + max_payload)
        self.view = memoryview(self.memory)
        self.payload = self.view[self.GAP :]


class ConnectionHost(Protocol):
    """What a local connection needs from the tunnel it is part of."""

    loop: asyncio.AbstractEventLoop
    linger: float
    stall_timeout: float
    read_buffer: ReadBuffer

    def allowance(self, connection: LocalConnection) -> int:
        """Return how many bytes may be read and sent now; with 0 the connection is parked."""

    def turn_taken(self, connection: LocalConnection, size: int) -> None:
        """Let the connection, which has just sent ``size`` bytes, read on, or park it again."""

    def send_data(self, message: memoryview) -> None:
        """Send one DATA message on the link; the memory may be reused on return."""

    def data_buffered(self, connection: LocalConnection, size: int) -> None:
        """Note that ``size`` more bytes wait for this connection's socket."""

    def data_taken(self, connection: LocalConnection, size: int) -> None:
        """Note that the socket took ``size`` waiting bytes."""

    def half_closed(self, connection: LocalConnection) -> None:
        """Note that a client will send nothing more and may still wait for an answer."""

    def local_ended(self, connection: LocalConnection) -> None:
        """Reset the connection in the tunnel: its local end is gone or has no more to say."""

    def delivered(self, connection: LocalConnection) -> None:
        """Note that everything received for an ended connection was delivered."""

    def closed(self, connection: LocalConnection) -> None:
        """Forget the connection: its socket is closed."""


class LocalConnection:
    """The pump between one local socket and one connection of the session.

    ``lingers`` tells whether the local end keeps receiving after its end of file: true
    for clients (source), false for applications (destination), whose end of file ends
    the connection because the protocol cannot say "half-closed".
    """

    def __init__(self, host: ConnectionHost, connection: Connection, name: str, lingers: bool):
        self.connection = connection
        self.name = name
        self.state = ConnectionState.DIALING
        self.waiting = 0
        """Bytes received from the tunnel that the socket has not taken yet."""
        self.bytes_in = 0
        """Bytes read from the local socket."""
        self.bytes_out = 0
        """Bytes received from the tunnel."""
        self._host = host
        self._loop = host.loop
        self._lingers = lingers
        self._sock: socket.socket | None = None
        self._fd = -1
        self._pieces: deque[memoryview] = deque()
        self._reading = False
        self._writing = False
        self._timer: asyncio.TimerHandle | None = None
        self._last_delivery = 0.0
        self._answered = False
        self._broken: OSError | None = None
        connection.sink = self

    # -- life ----------------------------------------------------------------------

    @property
    def attached(self) -> bool:
        """Whether the connection ever had a socket."""
        return self._sock is not None

    def attach(self, sock: socket.socket) -> None:
        """Take over a connected, non-blocking socket and start to move bytes."""
        self._sock = sock
        self._fd = sock.fileno()
        tune(sock)
        if self.state is ConnectionState.FLUSHING:
            self._flush_or_finish()
            return
        self.state = ConnectionState.PAUSED
        if not self.connection.is_paused:
            self.resume()
        if self._pieces:
            self._start_writing()

    def pause(self) -> None:
        """Read the socket no more, until :meth:`resume`: the peer takes nothing.

        What the local end still sends waits in the kernel, and so does its end of file.
        """
        if self.state is ConnectionState.OPEN:
            self.state = ConnectionState.PAUSED
            self._stop_reading()

    def resume(self) -> None:
        """Read the socket again after :meth:`pause`."""
        if self.state is ConnectionState.PAUSED:
            self.state = ConnectionState.OPEN
            self.resume_reading()

    def take_turn(self) -> None:
        """Read once after the connection was parked."""
        if self.state is ConnectionState.OPEN and not self._reading:
            before = self.bytes_in
            self._readable()
            if self.state is ConnectionState.OPEN:
                self._host.turn_taken(self, self.bytes_in - before)

    def resume_reading(self) -> None:
        """Read the socket whenever there is something to read."""
        if self.state is ConnectionState.OPEN and not self._reading:
            self._reading = True
            self._loop.add_reader(self._fd, self._readable)

    def tunnel_ended(self) -> None:
        """Deliver what was received, then close: the connection ended in the tunnel."""
        if self.state in _LIVE:
            self._cancel_timer()
            self._stop_reading()
            self.state = ConnectionState.FLUSHING
            self._flush_or_finish()
        elif self.state is ConnectionState.DIALING:
            self.state = ConnectionState.FLUSHING

    def abort(self) -> None:
        """Close the socket at once; what still waits is lost."""
        if self.state is ConnectionState.CLOSED:
            return
        self.state = ConnectionState.CLOSED
        self._cancel_timer()
        self._stop_reading()
        self._stop_writing()
        if self._sock is not None:
            self._sock.close()
        self._host.closed(self)
        self._pieces.clear()
        self.waiting = 0

    # -- socket to tunnel ------------------------------------------------------------

    def _readable(self) -> None:
        host = self._host
        limit = host.allowance(self)
        if not limit:
            self._stop_reading()
            return
        buffer = host.read_buffer
        sock = self._sock
        assert sock is not None
        try:
            size = sock.recv_into(buffer.payload, limit)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._local_failed(error)
            return
        if not size:
            self._local_eof()
            return
        error_number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error_number:
            self._broken = OSError(error_number, os.strerror(error_number))
            self._loop.call_soon(self._read_to_the_end)
        self.bytes_in += size
        header = self.connection.data_header(size)
        start = buffer.GAP - len(header)
        buffer.memory[start : buffer.GAP] = header
        host.send_data(buffer.view[start : buffer.GAP + size])

    def _read_to_the_end(self) -> None:
        """Go on reading what came in before the local end broke the connection.

        uvloop calls back once when a socket has an error, and never again.
        """
        if self._reading:
            self._stop_reading()
            self.resume_reading()

    def _local_eof(self) -> None:
        """Everything read has been sent. A client may still wait for its answer."""
        if self._broken is not None:
            self._local_failed(self._broken)
            return
        self._stop_reading()
        if self._lingers:
            self.state = ConnectionState.HALF_CLOSED
            self._last_delivery = self._loop.time()
            self._arm_linger(self._host.linger)
            self._host.half_closed(self)
        else:
            self._end_locally()

    def _arm_linger(self, delay: float) -> None:
        self._timer = self._loop.call_later(delay, self._linger_expired)

    def _linger_expired(self) -> None:
        left = self._last_delivery + self._host.linger - self._loop.time()
        if left > 0.0 or self.waiting:
            self._arm_linger(max(left, 0.1))
        else:
            self._end_locally()

    def end_linger(self) -> None:
        """Make room for another client, unless this half-closed one is getting its answer."""
        if self.state is ConnectionState.HALF_CLOSED and not self._takes_answer():
            self._end_locally()

    def _takes_answer(self) -> bool:
        """Tell a half-closed client from one that is gone, which answers data with a reset."""
        assert self._sock is not None
        return self._answered and not self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def _end_locally(self) -> None:
        """Reset in the tunnel, then deliver what was received and close."""
        self._cancel_timer()
        self.state = ConnectionState.FLUSHING
        self._host.local_ended(self)
        self._flush_or_finish()

    def _local_failed(self, error: OSError) -> None:
        logger.debug("%s: local socket failed: %s", self.name, error)
        if self.state in _LIVE:
            self._host.local_ended(self)
        self.abort()

    # -- tunnel to socket --------------------------------------------------------------

    def data_received(self, payload: memoryview) -> None:
        """Write ``payload`` to the socket; what it does not take at once is copied."""
        size = len(payload)
        self.bytes_out += size
        if self._sock is not None and not self.waiting:
            try:
                sent = self._sock.send(payload)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._local_failed(error)
                return
            if self.state is ConnectionState.HALF_CLOSED:
                self._last_delivery = self._loop.time()
                self._answered = True
            if sent == size:
                return
            payload = payload[sent:]
            size -= sent
        self._pieces.append(memoryview(bytes(payload)))
        self.waiting += size
        self._host.data_buffered(self, size)
        if self._sock is not None:
            self._start_writing()

    def _writable(self) -> None:
        assert self._sock is not None
        pieces = self._pieces
        try:
            if len(pieces) == 1:
                sent = self._sock.send(pieces[0])
            else:
                sent = self._sock.sendmsg([pieces[i] for i in range(min(len(pieces), _MAX_PIECES))])
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._local_failed(error)
            return
        left = sent
        while left:
            piece = pieces[0]
            if len(piece) > left:
                pieces[0] = piece[left:]
                break
            left -= len(piece)
            pieces.popleft()
        self.waiting -= sent
        self._last_delivery = self._loop.time()
        self._host.data_taken(self, sent)
        if not pieces:
            self._stop_writing()
            if self.state is ConnectionState.FLUSHING:
                self._shut_down()

    # -- orderly close -------------------------------------------------------------------

    def _flush_or_finish(self) -> None:
        if self._sock is None or self.state is not ConnectionState.FLUSHING:
            return
        if self._pieces:
            self._start_writing()
            self._last_delivery = self._loop.time()
            self._timer = self._loop.call_later(self._host.stall_timeout, self._flush_expired)
        else:
            self._shut_down()

    def _flush_expired(self) -> None:
        """Give up on a local end that has taken nothing for the stall timeout."""
        left = self._last_delivery + self._host.stall_timeout - self._loop.time()
        if left > 0.0:
            self._timer = self._loop.call_later(left, self._flush_expired)
        else:
            logger.warning(
                "%s: %d bytes could not be delivered: the local end takes nothing",
                self.name,
                self.waiting,
            )
            self.abort()

    def _shut_down(self) -> None:
        """Shut our half and wait for the local end to do the same.

        Closing at once would turn into a reset when unread bytes are left, and a reset
        destroys what the kernel has not delivered yet.
        """
        assert self._sock is not None
        self._cancel_timer()
        self.state = ConnectionState.CLOSING
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.abort()
            return
        self._timer = self._loop.call_later(_DRAIN_TIMEOUT, self.abort)
        self._loop.add_reader(self._fd, self._discard)
        self._reading = True
        self._host.delivered(self)

    def _discard(self) -> None:
        """Drop what the local end still sends; it can go nowhere.

        As soon as everything of ours is acknowledged, close: a local end that keeps
        sending then learns by a reset that nobody listens.
        """
        assert self._sock is not None
        try:
            size = self._sock.recv_into(self._host.read_buffer.payload)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            size = 0
        if not size or not unacknowledged(self._sock):
            self.abort()

    # -- readiness -------------------------------------------------------------------------

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def _start_writing(self) -> None:
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self._fd, self._writable)

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._fd)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __repr__(self) -> str:
        return f"<{self.name} {self.state.value}>"
