"""A slow link: forwards TCP connections at a fixed rate in each direction.

All connections share the rate, turn by turn. The box keeps next to nothing itself:
its receive buffers are small, so that what waits for the link waits in the sender.
"""

from __future__ import annotations

import contextlib
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
        self._queue: deque[tuple[socket.socket, socket.socket]] = deque()

    def carry(self, source: socket.socket, sink: socket.socket) -> None:
        """Forward from one socket to the other, in turns, as soon as there is something."""
        # Nothing more is looked for until it was this connection's turn.
        self._loop.once(source.fileno(), lambda: self._queue.append((source, sink)))

    def pump(self) -> None:
        """Forward what the rate allows by now."""
        now = time.monotonic()
        # What was not used is lost, as on a real link, but for a few ticks that came late.
        most = max(self._rate * _TICK * 4, _TURN)
        self._allowance = min(self._allowance + (now - self._refilled) * self._rate, most)
        self._refilled = now
        while self._queue and self._allowance >= 1:
            self._allowance -= self._move(*self._queue.popleft())

    def _move(self, source: socket.socket, sink: socket.socket) -> int:
        """Give one connection its turn; return the bytes it has sent."""
        try:
            data = source.recv(int(min(self._allowance, _TURN)))
        except BlockingIOError:
            self.carry(source, sink)
            return 0
        except OSError:
            data = b""
        with contextlib.suppress(OSError):
            if data:
                # The receiver is faster than the link, so its buffer takes a turn's bytes.
                sink.setblocking(True)
                sink.sendall(data)
                sink.setblocking(False)
                self._queue.append((source, sink))
            else:
                sink.shutdown(socket.SHUT_WR)
        return len(data)


class Throttle:
    """Listens for connections and forwards each over the shared link."""

    def __init__(self, loop: Loop, rate: float) -> None:
        self._loop = loop
        self._up = _Way(loop, rate)
        self._down = _Way(loop, rate)
        loop.every(_TICK, self._pump)

    def lead_to(self, target: tuple[str, int]) -> int:
        """Listen for connections that go to ``target``; return the port."""
        listening = socket.socket()
        _make_small(listening)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
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
        self._up.carry(near, far)
        self._down.carry(far, near)


def _make_small(sock: socket.socket) -> None:
    # Before the connection is made: the window's scale is agreed on in its first packets.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER // 2)  # the kernel doubles it
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT)
