"""Socket options of local connections, and what differs between systems."""

from __future__ import annotations

import socket
import struct
import sys

__all__ = ["tune", "unacknowledged"]


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
