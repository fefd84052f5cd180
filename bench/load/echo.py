"""The application that sends back what comes in."""

from __future__ import annotations

import select
import socket
from typing import Final

from .loop import Loop

__all__ = ["Echo"]

_SIZE: Final = 64 * 1024
_READ: Final = select.EPOLLIN
_WRITE: Final = select.EPOLLOUT


class Echo:
    """Any number of connections, none of which can hold up another."""

    def __init__(self, loop: Loop, host: str) -> None:
        self._loop = loop
        self._listening = socket.create_server((host, 0), backlog=4096)
        self._listening.setblocking(False)
        self._buffer = bytearray(_SIZE)
        self._view = memoryview(self._buffer)
        loop.watch(self._listening.fileno(), _READ, self._accept)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listening.getsockname()[1])

    def _accept(self, events: int) -> None:
        try:
            sock, _ = self._listening.accept()
        except BlockingIOError:
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        rest = bytearray()

        def ready(events: int) -> None:
            try:
                if rest:
                    del rest[: sock.send(rest)]
                    if not rest:
                        self._loop.change(sock.fileno(), _READ)
                    return
                size = sock.recv_into(self._buffer)
                sent = self._send(sock, size) if size else 0
            except BlockingIOError:
                return
            except OSError:
                size = 0
            if not size:
                self._loop.forget(sock.fileno())
                sock.close()
            elif sent < size:
                rest.extend(self._view[sent:size])
                self._loop.change(sock.fileno(), _WRITE)

        self._loop.watch(sock.fileno(), _READ, ready)

    def _send(self, sock: socket.socket, size: int) -> int:
        try:
            return sock.send(self._view[:size])
        except BlockingIOError:
            return 0
