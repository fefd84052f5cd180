"""An echo, and its clients: round trips, short connections, many at once.

The clients use blocking sockets, one after the other: what they measure is not their own loop.
"""

from __future__ import annotations

import os
import select
import socket
import statistics
import struct
import time
from collections.abc import Callable, Sequence
from typing import Final

from .loop import Loop

__all__ = ["Crowd", "connects", "echo", "round_trips"]

_HANG: Final = 10.0
"""Seconds after which an answer counts as lost."""
_SIZE: Final = 64
_MOST: Final = 4096
_WARM_UP: Final = 5
_OPENING: Final = 128
"""Connections of a crowd that are being opened at any time."""
_ASKING: Final = 256
"""Connections of a crowd that wait for an answer at any time."""


def echo(loop: Loop) -> int:
    """Send back what comes in on any number of connections; return the port."""

    def accepted(sock: socket.socket) -> None:
        def ready(events: int) -> None:
            try:
                data = sock.recv(_MOST)
                # Clients read every answer before they ask again, so it always fits.
                sock.sendall(data)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                loop.forget(sock.fileno())
                sock.close()

        loop.watch(sock.fileno(), select.EPOLLIN, ready)

    return loop.listen(accepted)


def round_trips(
    address: tuple[str, int], seconds: float, pause: float, patience: float
) -> dict[str, float]:
    """Send 64 bytes and wait for them to come back, again and again on one connection.

    ``pause`` seconds lie between two of them. An answer that takes longer than ``patience``
    seconds ends the measurement and counts as unanswered.
    """
    sock = _connect(address, patience)
    message = os.urandom(_SIZE)
    taken: list[float] = []
    lost = 0
    try:
        for _ in range(_WARM_UP):
            _round_trip(sock, message)
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            taken.append(_round_trip(sock, message))
            if pause:
                time.sleep(pause)
    except BlockingIOError:
        lost = 1
    finally:
        sock.close()
    return _quantiles(taken) | {"unanswered": lost}


def connects(address: tuple[str, int], seconds: float) -> dict[str, float]:
    """Open a connection, send a byte, take it back, close; one after the other."""
    taken: list[float] = []
    start = now = time.monotonic()
    while now - start < seconds:
        begun = time.perf_counter()
        sock = _connect(address, _HANG)
        try:
            _round_trip(sock, b"1")
        except BlockingIOError:
            raise ConnectionError(f"no answer on a new connection for {_HANG:g} s") from None
        finally:
            sock.close()
        taken.append(time.perf_counter() - begun)
        now = time.monotonic()
    return _quantiles(taken) | {"seconds": now - start}


class Crowd:
    """Connections that stay, each of which is used and has its answers checked."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._messages: list[bytes] = []

    def open(self, address: tuple[str, int], count: int) -> dict[str, float]:
        """Open connections; each one answers once before it counts."""

        def begin(number: int) -> None:
            self._sockets.append(_connect(address, _HANG))
            self._messages.append(b"")
            self._ask(number)

        return self._in_turn(range(count), _OPENING, begin)

    def echo(self, rounds: int) -> dict[str, float]:
        """Let every connection send ``rounds`` messages, each of its own content."""
        return self._in_turn([*range(len(self._sockets))] * rounds, _ASKING, self._ask)

    def _in_turn(
        self, numbers: Sequence[int], at_once: int, begin: Callable[[int], None]
    ) -> dict[str, float]:
        """Begin something with each connection; so many may wait for their answers."""
        start = time.monotonic()
        for at, number in enumerate(numbers):
            begin(number)
            if at >= at_once:
                self._take(numbers[at - at_once])
        for number in numbers[-at_once:]:
            self._take(number)
        return {"seconds": time.monotonic() - start, "count": len(numbers)}

    def _ask(self, number: int) -> None:
        self._messages[number] = os.urandom(_SIZE)
        self._sockets[number].sendall(self._messages[number])

    def _take(self, number: int) -> None:
        answer = self._sockets[number].recv(_SIZE, socket.MSG_WAITALL)
        if answer != self._messages[number]:
            raise ConnectionError(f"connection {number} of {len(self._sockets)} answered wrongly")


def _connect(address: tuple[str, int], patience: float) -> socket.socket:
    """Connect; the kernel and not Python bounds the waits, which would cost a system call."""
    sock = socket.create_connection(address, timeout=_HANG)
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    bound = struct.pack("ll", int(patience), int(patience % 1 * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, bound)
    return sock


def _round_trip(sock: socket.socket, message: bytes) -> float:
    size = len(message)
    start = time.perf_counter()
    sock.sendall(message)
    answer = sock.recv(size, socket.MSG_WAITALL)
    taken = time.perf_counter() - start
    if answer != message:
        if 0 < len(answer) < size:
            raise BlockingIOError  # the kernel gave up in the middle of the answer
        raise ConnectionError("the echo ended" if not answer else "the echo is not what was sent")
    return taken


def _quantiles(taken: list[float]) -> dict[str, float]:
    if len(taken) < 2:
        return {"count": len(taken)}
    cuts = statistics.quantiles(taken, n=1000, method="inclusive")
    found = {"p50": cuts[499], "p99": cuts[989], "p999": cuts[998], "max": max(taken)}
    return {"count": len(taken), **found}
