"""Local ends that are sockets, their options, and what differs between systems."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Callable
from functools import partial

__all__ = ["SocketEnd", "tune", "unacknowledged"]

_Callback = Callable[[], None]
_Stop = Callable[[], object]


class SocketEnd:
    """A connected, non-blocking socket as a :class:`~.local_end.LocalEnd`.

    Its operations are the socket's and the loop's own: the data path makes no detour.
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
        self._sock = sock
        self.recv_into: Callable[[memoryview, int], int] = sock.recv_into
        self.send: Callable[[memoryview], int] = sock.send
        self.sendmsg: Callable[[list[memoryview]], int] = sock.sendmsg
        self.pending_error: Callable[[], int] = partial(
            sock.getsockopt, socket.SOL_SOCKET, socket.SO_ERROR
        )
        fd = sock.fileno()
        self.start_reading: Callable[[_Callback], object] = partial(loop.add_reader, fd)
        self.stop_reading: _Stop = partial(loop.remove_reader, fd)
        self.start_writing: Callable[[_Callback], object] = partial(loop.add_writer, fd)
        self.stop_writing: _Stop = partial(loop.remove_writer, fd)

    def unacknowledged(self) -> int:
        """Return how many sent bytes the other end's kernel has not taken; 1 if unknown."""
        return unacknowledged(self._sock)

    def shut_down(self) -> None:
        """End the sending half."""
        self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


def tune(sock: socket.socket) -> None:
    """Send small writes at once, and notice a local end that has vanished."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


if sys.platform == "win32":

    def unacknowledged(sock: socket.socket) -> int:
        """Return how many sent bytes the other end's kernel has not taken; 1 if unknown."""
        return 1

else:
    import fcntl
    import termios

    def unacknowledged(sock: socket.socket) -> int:
        """Return how many sent bytes the other end's kernel has not taken; 1 if unknown."""
        try:
            answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        except (OSError, ValueError):
            return 1
        return int(struct.unpack("i", answer)[0])
