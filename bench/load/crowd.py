"""Many connections that stay: open them, use every one, check every answer."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections import deque
from typing import Final

from .loop import Loop

__all__ = ["Crowd"]

_OPENING: Final = 128
"""Connections that are being opened at any time."""

_ASKING: Final = 256
"""Connections that wait for an answer at any time."""


class _Member:
    """One connection of the crowd and the answer it waits for."""

    __slots__ = ("expected", "received", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.expected = b""
        self.received = b""


class Crowd:
    """Open connections to an echo."""

    def __init__(self, loop: Loop, address: tuple[str, int]) -> None:
        self._loop = loop
        self._address = address
        self._members: list[_Member] = []
        self._waiting: deque[_Member] = deque()
        self._busy = 0
        self._size = 0
        self._fault = ""
        self._ends = 0.0

    def grow(self, count: int, budget: float) -> dict[str, float]:
        """Open connections until there are ``count``; each one answers once before it counts.

        Gives up after ``budget`` seconds.
        """
        start = time.monotonic()
        self._ends = start + budget
        opened = count - len(self._members)
        left = opened
        while (left or self._busy) and not self._fault:
            while left and self._busy < _OPENING:
                left -= 1
                self._open()
            self._wait_below(_OPENING if left else 1)
        self._check()
        return {"seconds": time.monotonic() - start, "opened": opened}

    def echo(self, size: int, rounds: int, budget: float) -> dict[str, float]:
        """Let every connection send ``rounds`` messages, each of its own content.

        Gives up after ``budget`` seconds.
        """
        start = time.monotonic()
        self._ends = start + budget
        self._size = size
        for _ in range(rounds):
            self._waiting.extend(self._members)
            while self._waiting and self._busy < _ASKING:
                self._ask(self._waiting.popleft())
            self._wait_below(1)
            self._check()
        return {"seconds": time.monotonic() - start, "messages": rounds * len(self._members)}

    def close(self) -> None:
        """Close every connection."""
        for member in self._members:
            self._loop.forget(member.sock.fileno())
            member.sock.close()
        self._members.clear()

    def _wait_below(self, busy: int) -> None:
        left = self._ends - time.monotonic()
        if not self._loop.run(lambda: self._busy < busy or bool(self._fault), max(left, 0.0)):
            self._fault = "the time was up, and not all had answered"

    def _check(self) -> None:
        if self._fault:
            raise ConnectionError(f"with {len(self._members)} connections: {self._fault}")

    def _open(self) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        member = _Member(sock)
        self._busy += 1

        def connected(events: int) -> None:
            self._loop.forget(sock.fileno())
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self._fault = os.strerror(error)
                return
            self._members.append(member)
            self._loop.watch(sock.fileno(), select.EPOLLIN, lambda _: self._answered(member))
            self._size = 16
            self._send(member)

        error = sock.connect_ex(self._address)
        if error in (0, errno.EINPROGRESS):
            self._loop.watch(sock.fileno(), select.EPOLLOUT, connected)
        else:
            self._fault = os.strerror(error)

    def _ask(self, member: _Member) -> None:
        self._busy += 1
        self._send(member)

    def _send(self, member: _Member) -> None:
        member.expected = os.urandom(self._size)
        member.received = b""
        try:
            member.sock.send(member.expected)
        except OSError as error:
            self._fault = error.strerror or str(error)

    def _answered(self, member: _Member) -> None:
        try:
            piece = member.sock.recv(len(member.expected) + 1)
        except BlockingIOError:
            return
        except OSError as error:
            self._fault = error.strerror or str(error)
            return
        member.received += piece
        if not piece:
            self._fault = "a connection was closed"
        elif member.received == member.expected:
            self._busy -= 1
            if self._waiting:
                self._ask(self._waiting.popleft())
        elif not member.expected.startswith(member.received):
            self._fault = "an answer is not what was sent"
