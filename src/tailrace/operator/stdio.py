"""A connection through a tunnel as standard input and output, as ssh's ProxyCommand wants it.

Blocking calls and one thread: nothing else happens in such a process.
"""

from __future__ import annotations

import os
import select
import socket
from contextlib import suppress
from threading import Thread
from typing import Final

__all__ = ["join_streams"]

_PIECE: Final = 256 * 1024


def join_streams(sock: socket.socket, stdin: int = 0, stdout: int = 1) -> None:
    """Copy both ways until the device ends the connection.

    The end of standard input ends only that half: what the device still sends is written.

    Raises:
        ConnectionError: the connection was cut; or standard output is closed
            (``BrokenPipeError``).
    """
    # A daemon, because standard input may stay open when the device has ended the connection.
    Thread(target=_send, args=(sock, stdin), name="tailrace stdin", daemon=True).start()
    try:
        while data := sock.recv(_PIECE):
            _write(stdout, data)
    finally:
        # So that the thread sends nothing into what has the number of the socket next.
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def _send(sock: socket.socket, stdin: int) -> None:
    """Send what is read, and its end; what fails here fails in the other direction, too."""
    with suppress(OSError):
        while data := _read(stdin):
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)


def _read(stdin: int) -> bytes:
    while True:
        try:
            return os.read(stdin, _PIECE)
        except BlockingIOError:  # another process has made it so
            select.select([stdin], [], [])


def _write(stdout: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(stdout, rest) :]
        except BlockingIOError:
            select.select([], [stdout], [])
