"""Tunnel to sockets: what local sockets do not take waits here, in bounds.

The bytes themselves are kept by their connections, copied once. The books are kept by
:mod:`tailrace.flow.receive_buffers`, which explains the three steps and their marks; here they
are acted on. The session pauses and resumes the peer of one connection, or tells it how much it
may send; the reading of the whole link stops and starts; and while the link is not read, every
quarter of the stall timeout connections that take nothing are looked for and given up, so that the
others can go on. One that is alone may take as long as it likes.

Invariant: the link is read exactly while the buffers are not full. A new link that finds them
full is not read either.

What has come for connections that outlive links is acknowledged when much of it has, and within a
second in any case: the peer keeps it until then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from ..flow.receive_buffers import PAUSE_LOW, ReceiveBuffers
from ..session import Connection, Session

__all__ = ["Inbound", "Receiver"]

_STALL_CHECK: Final = 0.25
"""How often stalled connections are looked for, as a part of the stall timeout."""

_ACKNOWLEDGE_AFTER: Final = 1.0
"""Seconds after which what has come is acknowledged, however little it is."""


class Receiver(Protocol):
    """A local connection, as far as what waits for its socket is concerned."""

    connection: Connection

    @property
    def waiting(self) -> int:
        """Bytes received that its socket has not taken."""


R = TypeVar("R", bound=Receiver)


class Inbound(Generic[R]):
    """The way from the link to all local sockets of a tunnel.

    ``give_up`` is called with a connection that has to go, and has to end in :meth:`removed`;
    ``crowded`` returns whether there is more than one connection.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        session: Session,
        stall_timeout: float,
        crowded: Callable[[], bool],
        give_up: Callable[[R], None],
    ) -> None:
        self.buffers: ReceiveBuffers[R] = ReceiveBuffers()
        self.reading = True
        """Whether the link is read, where there is one."""
        self._loop = loop
        self._session = session
        self._stall_timeout = stall_timeout
        self._crowded = crowded
        self._give_up = give_up
        self._set_reading: Callable[[bool], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._owing: dict[Connection, None] = {}
        """Connections for which something has come lately, in order: what is sent does not depend
        on chance."""
        self._owing_timer: asyncio.TimerHandle | None = None

    def attach(self, set_reading: Callable[[bool], None]) -> None:
        """Regulate a new link, which is being read; ``set_reading`` changes that."""
        self._set_reading = set_reading
        self.reading = True
        self._regulate()

    def detach(self) -> None:
        """Regulate nothing: the link is gone."""
        self._set_reading = None
        self._cancel_timer()
        self._owing.clear()
        if self._owing_timer is not None:
            self._owing_timer.cancel()
            self._owing_timer = None

    def buffered(self, receiver: R, size: int) -> None:
        """Note that ``size`` more bytes wait for a connection's socket."""
        connection, waiting = receiver.connection, receiver.waiting
        has_window = connection.ledger is not None
        can_pause = connection.can_pause
        bounded = can_pause or has_window
        self.buffers.added(receiver, size, waiting, self._loop.time(), can_pause=bounded)
        if can_pause and self.buffers.wants_pause(waiting, has_window=has_window):
            self._session.pause(connection)
        self._regulate()

    def mark_reached(self, receiver: R) -> None:
        """Have the session judge what has come for a connection, and acknowledge it in time."""
        self._owing[receiver.connection] = None
        self._acknowledge_soon()
        self._session.mark_reached(receiver.connection)

    def _acknowledge_soon(self) -> None:
        if self._owing_timer is None:
            self._owing_timer = self._loop.call_later(_ACKNOWLEDGE_AFTER, self._acknowledge)

    def _acknowledge(self) -> None:
        self._owing_timer = None
        self._owing = dict.fromkeys(self._session.acknowledge(list(self._owing)))
        if self._owing:
            self._acknowledge_soon()

    def taken(self, receiver: R, size: int) -> None:
        """Note that a socket took ``size`` of its bytes."""
        self.buffers.taken(receiver, size, receiver.waiting, self._loop.time())
        connection = receiver.connection
        if receiver.waiting <= PAUSE_LOW:
            self._session.resume(connection)
        if connection.ledger is not None:
            self._session.settle(connection)
        self._regulate()

    def removed(self, receiver: R) -> None:
        """Forget a connection and what waited for its socket."""
        self.buffers.removed(receiver, receiver.waiting)
        self._owing.pop(receiver.connection, None)
        self._regulate()

    def _regulate(self) -> None:
        reading = not self.buffers.full
        if reading is self.reading or self._set_reading is None:
            return
        self.reading = reading
        self._set_reading(reading)
        if reading:
            self._cancel_timer()
        else:
            self._arm_timer()

    def _check_stalls(self) -> None:
        """Give up connections that take nothing while others wait, until the link can go on."""
        self._timer = None
        if self._crowded():
            for receiver in self.buffers.stalled(self._loop.time(), self._stall_timeout):
                if self.reading:
                    break
                self._give_up(receiver)
        if not self.reading:
            self._arm_timer()

    def _arm_timer(self) -> None:
        delay = self._stall_timeout * _STALL_CHECK
        self._timer = self._loop.call_later(delay, self._check_stalls)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
