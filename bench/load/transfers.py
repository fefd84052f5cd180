"""Bulk transfers: one or many connections, up or down, measured where bytes arrive.

The application says ``R`` on each new connection. When all of a transfer's have said
so, the clock starts and the client sends 18 bytes: which way, whether to check, how
much, which content. The application says so when it has all, or has sent all, so that
a transfer is over when its last byte has arrived.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from .content import Checker, content
from .loop import Loop

__all__ = ["ENDLESS", "Sink", "Transfer"]

ENDLESS: Final = 1 << 60
"""Bytes of a transfer that ends when its client closes."""

_PATIENCE: Final = 30.0
"""Seconds until a transfer's connection is open and answered."""
_CHUNK: Final = 256 * 1024
"""Most bytes that one system call moves."""
_READY: Final = b"R"
_RIGHT: Final = b"Y"
_WRONG: Final = b"N"


class _Order(NamedTuple):
    """What the greeting says."""

    up: bool
    """Whether the client sends."""
    check: bool
    """Whether to check the content."""
    size: int
    number: int
    """Of the content."""


_GREETING: Final = struct.Struct("!??QQ")


class _Flow:
    """Sends or receives a given number of bytes on one connection."""

    _buffer: Final = memoryview(bytearray(_CHUNK))
    """What is received is looked at at once, so one buffer serves every connection."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        order: _Order,
        finished: Callable[[_Flow], None],
        *,
        sends: bool,
    ) -> None:
        self.sock = sock
        self.moved = 0
        self.finished_at = 0.0
        self.fault = ""
        self._loop = loop
        self.order = order
        self._finished = finished
        self._sends = sends
        self._checker = Checker(order.number) if order.check else None
        self._held = False

    def start(self, *, held: bool = False) -> None:
        """Begin; a flow that is ``held`` and receives waits for :meth:`release`."""
        self._held = held and not self._sends
        if self._sends:
            self._loop.watch(self.sock.fileno(), select.EPOLLOUT, self._write)
        elif not held:
            self._loop.watch(self.sock.fileno(), select.EPOLLIN, self._read)

    def release(self) -> None:
        """Receive, if it was held."""
        if self._held:
            self.start()

    def stop(self) -> None:
        """Close the connection whatever has happened so far."""
        if self.sock.fileno() >= 0:
            self._loop.forget(self.sock.fileno())
            self.sock.close()

    def _read(self, events: int) -> None:
        try:
            size = self.sock.recv_into(self._buffer, min(_CHUNK, self.order.size - self.moved))
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(error.strerror)
            return
        if not size:
            self._fail("the connection ended")
            return
        if self._checker is not None and not self._checker.takes(self._buffer[:size]):
            self.fault = "other bytes than were sent"
        self._count(size)

    def _write(self, events: int) -> None:
        rest = min(_CHUNK, self.order.size - self.moved)
        try:
            self._count(self.sock.send(content(self.order.number, self.moved, rest)))
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(error.strerror)

    def _count(self, size: int) -> None:
        self.moved += size
        if self.moved == self.order.size:
            self._end()

    def _fail(self, reason: str | None) -> None:
        # An endless transfer ends with its connection.
        if self.order.size != ENDLESS:
            self.fault = f"{reason} after {self.moved} of {self.order.size} bytes"
        self._end()

    def _end(self) -> None:
        self.finished_at = time.monotonic()
        self._loop.forget(self.sock.fileno())
        self._finished(self)


class Sink:
    """The application's side: takes greetings and does what they ask."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.port = loop.listen(self._accept)
        self._flows: set[_Flow] = set()
        self._moved = 0
        self.holds = False
        """Whether transfers that begin receive nothing until :meth:`release`."""

    def release(self) -> None:
        """Receive what was held."""
        self.holds = False
        for flow in self._flows:
            flow.release()

    @property
    def moved(self) -> int:
        """Bytes sent and received so far."""
        return self._moved + sum(flow.moved for flow in self._flows)

    def _accept(self, sock: socket.socket) -> None:
        sock.send(_READY)
        self._loop.once(sock.fileno(), lambda: self._greeted(sock))

    def _greeted(self, sock: socket.socket) -> None:
        try:
            order = _Order(*_GREETING.unpack(sock.recv(_GREETING.size)))
        except (OSError, struct.error):
            sock.close()
            return
        flow = _Flow(self._loop, sock, order, self._finished, sends=not order.up)
        self._flows.add(flow)
        flow.start(held=self.holds)

    def _finished(self, flow: _Flow) -> None:
        self._flows.discard(flow)
        self._moved += flow.moved
        with contextlib.suppress(OSError):
            flow.sock.send(_WRONG if flow.fault else _RIGHT)
        # The client closes first, so that the verdict is not lost to a reset.
        self._loop.once(flow.sock.fileno(), flow.sock.close)


class Transfer:
    """The client's side: connections that start together, one for each address."""

    def __init__(
        self,
        loop: Loop,
        addresses: Sequence[tuple[str, int]],
        direction: str,
        *,
        size: int,
        check: bool,
        held: bool,
    ) -> None:
        self._loop = loop
        self._flows: list[_Flow] = []
        self.open = len(addresses)
        """Connections that have not come to their end."""
        for number, address in enumerate(addresses):
            sock = socket.create_connection(address, timeout=_PATIENCE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            order = _Order(direction == "up", check, size, number)
            self._flows.append(_Flow(loop, sock, order, self._finished, sends=order.up))
        for flow in self._flows:
            if flow.sock.recv(1) != _READY:
                raise ConnectionError("the application did not answer")
        self._started_at = time.monotonic()
        for flow in self._flows:
            flow.sock.sendall(_GREETING.pack(*flow.order))
            flow.sock.setblocking(False)
            flow.start(held=held)

    def release(self) -> None:
        """Receive what was held."""
        for flow in self._flows:
            flow.release()

    @property
    def moved(self) -> int:
        """Bytes sent or received so far."""
        return sum(flow.moved for flow in self._flows)

    def result(self) -> dict[str, Any]:
        """Return what has been measured; the clock stops with the last byte that arrived."""
        ends = sorted(flow.finished_at for flow in self._flows)
        return {
            "seconds": ends[-1] - self._started_at,
            "first": ends[0] - self._started_at,
            "fault": next((flow.fault for flow in self._flows if flow.fault), ""),
        }

    def close(self) -> None:
        """Close every connection."""
        for flow in self._flows:
            flow.stop()

    def _finished(self, flow: _Flow) -> None:
        """Wait for the application's verdict: only then has everything arrived."""
        if flow.fault:
            self.open -= 1
            return

        def verdict() -> None:
            try:
                answer = flow.sock.recv(1)
            except OSError:
                answer = b""
            flow.finished_at = time.monotonic()
            if answer != _RIGHT:
                flow.fault = "the application got other bytes" if answer else "no verdict came"
            self.open -= 1

        self._loop.once(flow.sock.fileno(), verdict)
