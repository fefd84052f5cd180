"""Local ends that are sockets, their options, and what differs between systems."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from ..common.readiness import readiness_of
from .client_socket import is_closed

__all__ = ["SocketEnd", "tune", "unacknowledged"]

_Callback = Callable[[], None]
_Stop = Callable[[], object]

_LINGER: Final = struct.Struct("hh" if sys.platform == "win32" else "ii")
_RST_ON_CLOSE: Final = _LINGER.pack(1, 0)
_FIN_ON_CLOSE: Final = _LINGER.pack(0, 0)
"""Values of SO_LINGER."""
_SO_NWRITE: Final = 0x1024
"""Option of macOS, which has no ``TIOCOUTQ`` for sockets: bytes in the send buffer."""
_HAS_SENDMSG: Final = hasattr(socket.socket, "sendmsg")


class SocketEnd:
    """A connected, non-blocking socket as a :class:`~.local_end.LocalEnd`.

    Its operations are the socket's and the loop's own: the data path makes no detour.

    Until it is closed in order, a close sends RST: also that of the system, when this process
    is killed. Unix sockets have no RST. The other end of those sees an end of file, or a reset
    if it has sent what was not read.
    """

    __slots__ = (
        "_sock",
        "pending_error",
        "recv_into",
        "send",
        "sendmsg",
        "start_reading",
        "start_writing",
        "stop_reading",
        "stop_writing",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        tune(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        self._sock = sock
        self.recv_into: Callable[[memoryview, int], int] = sock.recv_into
        self.send: Callable[[memoryview], int] = sock.send
        self.sendmsg: Callable[[list[memoryview]], int] = (
            sock.sendmsg if _HAS_SENDMSG else partial(_send_joined, sock)
        )
        self.pending_error: Callable[[], int] = partial(
            sock.getsockopt, socket.SOL_SOCKET, socket.SO_ERROR
        )
        fd, readiness = sock.fileno(), readiness_of(loop)
        self.start_reading: Callable[[_Callback], object] = partial(readiness.add_reader, fd)
        self.stop_reading: _Stop = partial(readiness.remove_reader, fd)
        self.start_writing: Callable[[_Callback], object] = partial(readiness.add_writer, fd)
        self.stop_writing: _Stop = partial(readiness.remove_writer, fd)

    def expect_end(self) -> None:
        """Do nothing: a socket holds back nothing."""

    def unacknowledged(self) -> int:
        """Return how many sent bytes the other end's kernel has not taken; 1 if unknown."""
        return unacknowledged(self._sock)

    def shut_down(self) -> None:
        """End the sending half."""
        self._end_in_order()
        self._sock.shutdown(socket.SHUT_WR)

    def is_gone(self) -> bool:
        """Return whether the other end is known to be closed altogether, or to have reset."""
        return _hung_up(self._sock) or is_closed(self._sock)

    def close(self) -> None:
        """Close the socket; what was sent is still delivered."""
        self._end_in_order()
        self._sock.close()

    def reset(self, reason: str = "") -> None:
        """Close the socket with RST; what has not been delivered is lost."""
        self._sock.close()

    def _end_in_order(self) -> None:
        # Systems exist that refuse it on a socket whose connection has failed.
        with suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _FIN_ON_CLOSE)


def _send_joined(sock: socket.socket, pieces: list[memoryview]) -> int:
    """Do what ``sendmsg`` does on systems that do not have it."""
    return sock.send(b"".join(pieces))


def tune(sock: socket.socket) -> None:
    """Send small writes at once, and notice a local end that has vanished."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


if sys.platform == "win32":

    def _hung_up(sock: socket.socket) -> bool:
        """Return whether the connection of a socket is over in both directions."""
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def unacknowledged(sock: socket.socket) -> int:
        """Return how many sent bytes the other end's kernel has not taken; 1 if unknown."""
        return 1

else:
    import fcntl
    import select
    import termios

    def _hung_up(sock: socket.socket) -> bool:
        """Return whether the connection of a socket is over in both directions."""
        poll = select.poll()
        poll.register(sock, 0)
        return bool(poll.poll(0))

    def unacknowledged(sock: socket.socket) -> int:
        """Return how many sent bytes the other end's kernel has not taken; 1 if unknown."""
        try:
            if sys.platform == "darwin":
                return sock.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)
            answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        except (OSError, ValueError):
            return 1
        return int(struct.unpack("i", answer)[0])
