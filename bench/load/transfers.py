"""Bulk transfers: one or many connections, either way or both, measured where bytes arrive.

A client greets the application with 18 bytes: what to do, how, how much, which content.
The application answers ``R``; the clock starts when every connection of a transfer is
that far and the client sends ``G``. Who receives says so at the end, so that a
transfer is over when its last byte has arrived and not when it has been sent.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable
from enum import Enum
from typing import Final

from .content import CHUNK, Content, slice_of
from .loop import Loop

__all__ = ["ENDLESS", "GREETING", "Direction", "Flow", "Sink", "Transfer"]

ENDLESS: Final = 1 << 60
"""Bytes of a transfer that ends when its client closes."""

GREETING: Final = struct.Struct("!c?QQ")
"""Direction, whether to check the content, bytes each way, number of the content."""

_PATIENCE: Final = 30.0
"""Seconds until a transfer's connection is open and answered."""

_READY: Final = b"R"
_GO: Final = b"G"
_RIGHT: Final = b"Y"
_WRONG: Final = b"N"
_READ: Final = select.EPOLLIN
_WRITE: Final = select.EPOLLOUT


class Direction(Enum):
    """Up is from the client to the application; values travel in the greeting."""

    UP = b"U"
    DOWN = b"D"
    BOTH = b"B"

    @property
    def goes_up(self) -> bool:
        """Whether the application receives."""
        return self is not Direction.DOWN

    @property
    def goes_down(self) -> bool:
        """Whether the client receives."""
        return self is not Direction.UP


class Flow:
    """Sends and receives a given number of bytes on one connection."""

    _buffer: Final = bytearray(CHUNK)
    """What is received is looked at at once, so one buffer serves every connection."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        *,
        number: int,
        to_send: int,
        to_receive: int,
        check: bool,
        finished: Callable[[Flow], None],
    ) -> None:
        self.sock = sock
        self.sent = 0
        self.received = 0
        self.finished_at = 0.0
        self.fault = ""
        self._loop = loop
        self._number = number
        self._to_send = to_send
        self._to_receive = to_receive
        self._content = Content(number) if check and to_receive else None
        self._finished = finished
        self._held = False
        self._watching = 0

    def start(self, *, held: bool = False) -> None:
        """Begin; a ``held`` flow reads nothing until :meth:`release`."""
        self._held = held
        self._loop.watch(self.sock.fileno(), self._wanted(), self._ready)
        self._watching = self._wanted()
        if not self._watching and not held:
            self._end()

    def release(self) -> None:
        """Read, if it was held."""
        if self._held and not self.finished_at:
            self._held = False
            self._watch()

    def stop(self) -> None:
        """Close the connection whatever has happened so far."""
        if self.sock.fileno() >= 0:
            self._loop.forget(self.sock.fileno())
            self.sock.close()

    @property
    def is_right(self) -> bool:
        """Whether the bytes received are those that were to come."""
        return not self.fault and (self._content is None or self._content.is_right)

    def _wanted(self) -> int:
        reads = self.received < self._to_receive and not self._held
        return (_READ if reads else 0) | (_WRITE if self.sent < self._to_send else 0)

    def _watch(self) -> None:
        wanted = self._wanted()
        if wanted != self._watching:
            self._watching = wanted
            self._loop.change(self.sock.fileno(), wanted)

    def _ready(self, events: int) -> None:
        try:
            if events & self._watching & _READ:
                self._read()
            if events & self._watching & _WRITE and not self.finished_at:
                self._write()
            elif not events & (_READ | _WRITE):
                self._fail("the connection broke")
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(error.strerror or str(error))

    def _read(self) -> None:
        size = self.sock.recv_into(self._buffer, min(CHUNK, self._to_receive - self.received))
        if not size:
            self._fail("the connection ended")
            return
        self.received += size
        if self._content is not None:
            self._content.update(memoryview(self._buffer)[:size])
        if self.received == self._to_receive:
            self._check_end()

    def _write(self) -> None:
        self.sent += self.sock.send(slice_of(self._number, self.sent, self._to_send - self.sent))
        if self.sent == self._to_send:
            self._check_end()

    def _check_end(self) -> None:
        if self.sent == self._to_send and self.received == self._to_receive:
            self._end()
        else:
            self._watch()

    def _fail(self, reason: str) -> None:
        # An endless transfer ends with its connection.
        if ENDLESS not in (self._to_send, self._to_receive):
            self.fault = (
                f"{reason} after {self.sent} of {self._to_send} bytes sent, "
                f"{self.received} of {self._to_receive} received"
            )
        self._end()

    def _end(self) -> None:
        self.finished_at = time.monotonic()
        self._loop.forget(self.sock.fileno())
        self._finished(self)


class Sink:
    """The application's side: takes greetings and does what they ask."""

    def __init__(self, loop: Loop, host: str) -> None:
        self._loop = loop
        self._listening = socket.create_server((host, 0), backlog=4096)
        self._listening.setblocking(False)
        self._flows: set[Flow] = set()
        self._sent = self._received = 0
        self.holds = False
        """Whether transfers that come now are not read until :meth:`release`."""
        loop.watch(self._listening.fileno(), _READ, self._accept)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listening.getsockname()[1])

    def release(self) -> None:
        """Read what was held."""
        self.holds = False
        for flow in self._flows:
            flow.release()

    def progress(self) -> dict[str, float]:
        """Return the bytes moved so far, and the time."""
        return {
            "now": time.monotonic(),
            "sent": self._sent + sum(flow.sent for flow in self._flows),
            "received": self._received + sum(flow.received for flow in self._flows),
        }

    def _accept(self, events: int) -> None:
        try:
            sock, _ = self._listening.accept()
        except BlockingIOError:
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._expect(sock, GREETING.size, lambda greeting: self._greeted(sock, greeting))

    def _expect(self, sock: socket.socket, size: int, then: Callable[[bytes], None]) -> None:
        """Call ``then`` with the next ``size`` bytes; drop connections that end before."""
        collected = bytearray()

        def ready(events: int) -> None:
            try:
                piece = sock.recv(size - len(collected))
            except BlockingIOError:
                return
            except OSError:
                piece = b""
            collected.extend(piece)
            if not piece or len(collected) == size:
                self._loop.forget(sock.fileno())
                if piece:
                    then(bytes(collected))
                else:
                    sock.close()

        self._loop.watch(sock.fileno(), _READ, ready)

    def _greeted(self, sock: socket.socket, greeting: bytes) -> None:
        kind, check, size, number = GREETING.unpack(greeting)
        direction = Direction(kind)
        flow = Flow(
            self._loop,
            sock,
            number=number,
            to_send=size if direction.goes_down else 0,
            to_receive=size if direction.goes_up else 0,
            check=check,
            finished=self._finished,
        )
        held = self.holds and direction.goes_up
        sock.send(_READY)
        self._expect(sock, len(_GO), lambda _: self._start(flow, held))

    def _start(self, flow: Flow, held: bool) -> None:
        self._flows.add(flow)
        flow.start(held=held)

    def _finished(self, flow: Flow) -> None:
        self._flows.discard(flow)
        self._sent += flow.sent
        self._received += flow.received
        try:
            flow.sock.send(_RIGHT if flow.is_right else _WRONG)
        except OSError:
            flow.sock.close()
            return
        # The client closes first, so that the verdict is not lost to a reset.
        self._expect(flow.sock, 1, lambda _: flow.sock.close())


class Transfer:
    """The client's side: connections that start together, one for each address."""

    def __init__(
        self,
        loop: Loop,
        addresses: list[tuple[str, int]],
        direction: Direction,
        *,
        size: int = ENDLESS,
        check: bool = False,
        held: bool = False,
    ) -> None:
        self._loop = loop
        self._held = held and direction.goes_down
        self._started_at = 0.0
        self._flows: list[Flow] = []
        self._open = 0
        for number, address in enumerate(addresses):
            sock = socket.create_connection(address, timeout=_PATIENCE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(GREETING.pack(direction.value, check, size, number))
            flow = Flow(
                loop,
                sock,
                number=number,
                to_send=size if direction.goes_up else 0,
                to_receive=size if direction.goes_down else 0,
                check=check,
                finished=self._finished,
            )
            self._flows.append(flow)
        for flow in self._flows:
            if flow.sock.recv(1) != _READY:
                raise ConnectionError("the application did not answer")

    def start(self) -> None:
        """Let every connection go."""
        self._started_at = time.monotonic()
        self._open = len(self._flows)
        for flow in self._flows:
            flow.sock.sendall(_GO)
            flow.sock.setblocking(False)
            flow.start(held=self._held)

    def release(self) -> None:
        """Read what was held."""
        for flow in self._flows:
            flow.release()

    @property
    def is_over(self) -> bool:
        """Whether every connection has come to its end."""
        return not self._open

    def progress(self) -> dict[str, float]:
        """Return the bytes moved so far, and the time."""
        return {
            "now": time.monotonic(),
            "sent": sum(flow.sent for flow in self._flows),
            "received": sum(flow.received for flow in self._flows),
        }

    def result(self) -> dict[str, object]:
        """Return what has been measured; the clock stops with the last byte that arrived."""
        ends = sorted(flow.finished_at for flow in self._flows)
        faults = [flow.fault or "other bytes than were sent" for flow in self._faulty()]
        return {
            "seconds": ends[-1] - self._started_at,
            "first": ends[0] - self._started_at,
            "bytes": sum(flow.sent + flow.received for flow in self._flows),
            "fault": faults[0] if faults else "",
        }

    def close(self) -> None:
        """Close every connection."""
        for flow in self._flows:
            flow.stop()

    def _faulty(self) -> list[Flow]:
        return [flow for flow in self._flows if not flow.is_right]

    def _finished(self, flow: Flow) -> None:
        """Wait for the application's verdict: only then has everything arrived."""
        if flow.fault or flow.sock.fileno() < 0:
            self._open -= 1
            return

        def verdict(events: int) -> None:
            self._loop.forget(flow.sock.fileno())
            try:
                answer = flow.sock.recv(1)
            except OSError:
                answer = b""
            flow.finished_at = time.monotonic()
            if answer != _RIGHT:
                flow.fault = "the application got other bytes" if answer else "no verdict came"
            self._open -= 1

        self._loop.watch(flow.sock.fileno(), _READ, verdict)
