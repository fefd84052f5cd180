"""A slow link: forwards TCP connections at a fixed rate in each direction.

All connections share the rate, turn by turn. The box keeps next to nothing itself:
its receive buffers are small, so that what waits for the link waits in the sender.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from typing import Final

from .loop import Loop

__all__ = ["Throttle"]

_TICK: Final = 0.005
_BUFFER: Final = 32 * 1024
"""Bytes of the box's receive buffer, which the kernel keeps as TCP's window."""
_SEGMENT: Final = 1448
"""TCP segment size as on Ethernet; loopback's 64 KiB do not go through a small window well."""
_TURN: Final = 2 * _SEGMENT
"""Bytes that one connection may send before it is the next one's turn."""


class _Way:
    """One direction of the link."""

    def __init__(self, loop: Loop, rate: float) -> None:
        self._loop = loop
        self._rate = rate
        self._allowance = 0.0
        self._refilled = time.monotonic()
        self._queue: deque[_Pipe] = deque()

    def add(self, pipe: _Pipe) -> None:
        """Let a pipe that has something to forward wait for its turn."""
        self._queue.append(pipe)

    def pump(self) -> None:
        """Forward what the rate allows by now."""
        now = time.monotonic()
        # What was not used is lost, as on a real link, but for a few ticks that came late.
        most = max(self._rate * _TICK * 4, _TURN)
        self._allowance = min(self._allowance + (now - self._refilled) * self._rate, most)
        self._refilled = now
        while self._queue and self._allowance >= 1:
            pipe = self._queue.popleft()
            moved, more = pipe.move(int(min(self._allowance, _TURN)))
            self._allowance -= moved
            if more:
                self._queue.append(pipe)


class _Pipe:
    """One direction of one connection."""

    def __init__(self, loop: Loop, way: _Way, source: socket.socket, sink: socket.socket) -> None:
        self._loop = loop
        self._way = way
        self._source = source
        self._sink = sink
        self._queued = False

    def readable(self, events: int) -> None:
        """Queue for the link; look for nothing more until it was this pipe's turn."""
        if not self._queued:
            self._queued = True
            self._loop.forget(self._source.fileno())
            self._way.add(self)

    def watch(self) -> None:
        """Wait for something to forward."""
        self._queued = False
        self._loop.watch(self._source.fileno(), select.EPOLLIN, self.readable)

    def move(self, most: int) -> tuple[int, bool]:
        """Forward up to ``most`` bytes; return how many, and whether to queue again."""
        try:
            data = self._source.recv(most)
        except BlockingIOError:
            self.watch()
            return 0, False
        except OSError:
            data = b""
        if not data:
            self._end()
            return 0, False
        try:
            # The receiver is faster than the link, so its buffer takes a turn's bytes.
            self._sink.setblocking(True)
            self._sink.sendall(data)
            self._sink.setblocking(False)
        except OSError:
            self._end()
            return len(data), False
        return len(data), True

    def _end(self) -> None:
        try:
            self._sink.shutdown(socket.SHUT_WR)
        except OSError:
            return


class Throttle:
    """Listens for connections and forwards each over the shared link."""

    def __init__(self, loop: Loop, host: str, rate: float) -> None:
        self._loop = loop
        self._host = host
        self._up = _Way(loop, rate)
        self._down = _Way(loop, rate)
        self._kept: list[socket.socket] = []
        loop.every(_TICK, self._pump)

    def lead_to(self, target: tuple[str, int]) -> int:
        """Listen for connections that go to ``target``; return the port."""
        listening = socket.socket()
        _make_small(listening)
        listening.bind((self._host, 0))
        listening.listen(1024)
        self._kept.append(listening)
        self._loop.watch(
            listening.fileno(), select.EPOLLIN, lambda _: self._accept(listening, target)
        )
        return int(listening.getsockname()[1])

    def _pump(self) -> None:
        self._up.pump()
        self._down.pump()

    def _accept(self, listening: socket.socket, target: tuple[str, int]) -> None:
        near, _ = listening.accept()
        far = socket.socket()
        _make_small(far)
        try:
            far.connect(target)
        except OSError:
            near.close()
            return
        for sock in (near, far):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._kept += [near, far]
        _Pipe(self._loop, self._up, near, far).watch()
        _Pipe(self._loop, self._down, far, near).watch()


def _make_small(sock: socket.socket) -> None:
    # Before the connection is made: the window's scale is agreed on in its first packets.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER // 2)  # the kernel doubles it
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT)
