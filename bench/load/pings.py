"""Round trips and short connections, as a client sees them; plain blocking sockets."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from typing import Final

from ..stats import quantile
from .loop import Loop

__all__ = ["connects", "crowded_connects", "round_trips"]

_HANG: Final = 10.0
"""Seconds after which an answer counts as lost."""


def round_trips(
    address: tuple[str, int],
    *,
    size: int,
    count: int,
    seconds: float,
    pause: float = 0.0,
    warm_up: int = 20,
    patience: float = _HANG,
) -> dict[str, float]:
    """Send ``size`` bytes and wait for them to come back, again and again on one connection.

    Ends after ``count`` round trips or ``seconds``, whichever is first; ``pause`` seconds
    lie between two of them. An answer that takes longer than ``patience`` seconds ends the
    measurement and counts as unanswered.
    """
    sock = _blocking(address, patience)
    taken: list[float] = []
    lost = 0
    try:
        for _ in range(warm_up):
            _round_trip(sock, os.urandom(size))
        ends = time.monotonic() + seconds
        message = os.urandom(size)
        while len(taken) < count and time.monotonic() < ends:
            taken.append(_round_trip(sock, message))
            if pause:
                time.sleep(pause)
    except BlockingIOError:
        lost = 1
    finally:
        sock.close()
    return _quantiles(taken) | {"unanswered": lost}


def connects(address: tuple[str, int], *, seconds: float, count: int) -> dict[str, float]:
    """Open a connection, send a byte, take it back, close; one after the other."""
    taken: list[float] = []
    start = now = time.monotonic()
    while now - start < seconds and len(taken) < count:
        begun = time.perf_counter()
        sock = _blocking(address, _HANG)
        try:
            _round_trip(sock, b"1")
        except BlockingIOError:
            raise ConnectionError(f"no answer on a new connection for {_HANG:g} s") from None
        finally:
            sock.close()
        taken.append(time.perf_counter() - begun)
        now = time.monotonic()
    return _quantiles(taken) | {"seconds": now - start}


def crowded_connects(
    loop: Loop, address: tuple[str, int], *, seconds: float, count: int, at_once: int
) -> dict[str, float]:
    """As :func:`connects`, with ``at_once`` connections under way at any time."""
    run = _Connecting(loop, address, seconds, count)
    for _ in range(at_once):
        run.open()
    over = loop.run(lambda: run.under_way == 0 or bool(run.fault), seconds + _HANG)
    if run.fault or not over:
        reason = run.fault or f"{run.under_way} were not answered within {_HANG:g} s"
        raise ConnectionError(f"after {len(run.taken)} connections: {reason}")
    return _quantiles(run.taken) | {"seconds": run.last - run.start}


class _Connecting:
    """Connections that are opened, used once, closed, and followed by the next one."""

    def __init__(self, loop: Loop, address: tuple[str, int], seconds: float, count: int) -> None:
        self._loop = loop
        self._address = address
        self.start = self.last = time.monotonic()
        self._ends = self.start + seconds
        self._left = count
        self.taken: list[float] = []
        self.under_way = 0
        self.fault = ""

    def open(self) -> None:
        """Start the next connection, unless it is time to stop."""
        if self.fault or self._left <= 0 or time.monotonic() >= self._ends:
            return
        self._left -= 1
        self.under_way += 1
        begun = time.perf_counter()
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begun_badly = sock.connect_ex(self._address)

        def connected(events: int) -> None:
            self._loop.forget(sock.fileno())
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self._end(sock, os.strerror(error))
                return
            sock.send(b"1")
            self._loop.watch(sock.fileno(), select.EPOLLIN, answered)

        def answered(events: int) -> None:
            self._loop.forget(sock.fileno())
            try:
                right = sock.recv(1) == b"1"
            except OSError:
                right = False
            self.taken.append(time.perf_counter() - begun)
            self._end(sock, "" if right else "a new connection was closed")

        if begun_badly in (0, errno.EINPROGRESS):
            self._loop.watch(sock.fileno(), select.EPOLLOUT, connected)
        else:
            self._end(sock, os.strerror(begun_badly))

    def _end(self, sock: socket.socket, fault: str) -> None:
        sock.close()
        self.last = time.monotonic()
        self.under_way -= 1
        self.fault = self.fault or fault
        self.open()


def _blocking(address: tuple[str, int], patience: float) -> socket.socket:
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
    ordered = sorted(taken)
    if not ordered:
        return {"count": 0}
    return {
        "count": len(ordered),
        "p50": quantile(ordered, 0.5),
        "p99": quantile(ordered, 0.99),
        "p999": quantile(ordered, 0.999),
        "max": ordered[-1],
    }
