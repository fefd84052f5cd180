"""Sockets to tunnel: local sockets are read in turn, for as long as the link takes it.

Nothing read from a local socket is ever queued here. A connection reads only what it may send
at once, behind a gap that its message header goes into, and sends it before the next one
reads. So one block of memory serves all connections of a tunnel, and what cannot be sent stays in
the kernel, where TCP carries the pressure back to the local program. Where a connection outlives
its link, large pieces stay in the block until the peer has acknowledged them, and the next read
takes another block (:mod:`tailrace.session.replay`).

How much a connection may read, it asks of :class:`Outbound`:

* ``budget`` bytes while the gate of :mod:`tailrace.flow.scheduler` is open. It is one turn: an
  eighth of the send window, so that many who send in bulk get through the window in turns.
* What :meth:`Outbound.go_ahead` grants while it is closed; with 0 the connection parks itself
  and is called (``take_turn``) when the gate is open again.

A turn reads once. :meth:`Outbound.must_wait` says whether the connection then watches its
socket again or queues up for another turn.

What has to be sent again, after a link was lost, has turns of its own (:meth:`Outbound.ask_turn`),
which come first. They do not wait for memory: it is made only by what they send.

Without a link the gate is closed, for interactive connections too: those that want to send
wait for the next :meth:`Outbound.attach`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from ..common.counts import Way
from ..flow.scheduler import GRANT, Turns
from ..session import Block, ReplayMemory

__all__ = ["Outbound", "Sender"]


class Sender(Protocol):
    """A local connection, as far as its turns are concerned."""

    @property
    def bytes_in(self) -> int:
        """Bytes it has sent in its life."""

    def take_turn(self) -> None:
        """Read and send once."""


S = TypeVar("S", bound=Sender)


def _no_link(message: memoryview) -> None:
    raise AssertionError("data was sent without a link")


class Outbound(Way, Generic[S]):
    """The way from all local sockets of a tunnel to its link."""

    block: Block

    def __init__(self, loop: asyncio.AbstractEventLoop, max_payload: int) -> None:
        self.memory = ReplayMemory(max_payload)
        """What the connections keep to send it again."""
        self.memory.filled = self._memory_filled
        self.memory.room_made = self._room_made
        self.block = self.memory.take_block()
        """What all connections read into."""
        self.gap = Block.GAP
        self.outlet = None
        self.budget = 0
        """Bytes that a connection may read and send now; 0 while bulk data has to wait."""
        self.send: Callable[[memoryview], None] = _no_link
        """Sends one DATA message on the link; the memory may be reused on return."""
        self._loop = loop
        self._max_payload = max_payload
        self._turn_budget = max_payload
        self._next_turns: asyncio.Handle | None = None
        self._attached = False
        self._turns: Turns[S] = Turns()
        self._turns.set_link_paused(True)
        self._replays: Turns[S] = Turns()
        """Those that have to send again."""
        self._replays.set_link_paused(True)
        # Straight to the turns: parking is frequent where many send in bulk.
        self.park: Callable[[S], None] = self._turns.park

    def attach(self, send: Callable[[memoryview], None]) -> None:
        """Send on a new link, which has room."""
        self.send = send
        self._attached = True
        self._turns.set_window_full(False)
        self._replays.set_window_full(False)
        self.set_link_paused(False)

    def detach(self) -> None:
        """Send nothing until the next :meth:`attach`: the link is gone."""
        self._attached = False
        self.set_link_paused(True)
        self.send = _no_link
        self.outlet = None

    def set_link_paused(self, paused: bool) -> None:
        """Note whether the write buffer of the link is over its mark."""
        if self._turns.set_link_paused(paused) | self._replays.set_link_paused(paused):
            # Not at once: the transport is in the middle of writing.
            self._give_turns_soon()
        self.budget = 0 if self._turns.closed else self._turn_budget

    def set_window(self, full: bool, quantum: int) -> None:
        """Note whether the send window is full, and the bytes of one turn that go with it."""
        self._turn_budget = quantum if quantum < self._max_payload else self._max_payload
        self._turns.set_quantum(quantum)
        if self._turns.set_window_full(full) | self._replays.set_window_full(full):
            self._give_turns_soon()
        self.budget = 0 if self._turns.closed else self._turn_budget

    def ask_turn(self, connection: S) -> None:
        """Park a connection that has to send again; its turn comes in any case."""
        self._replays.park(connection)
        if not self._replays.closed:
            self._give_turns_soon()

    @property
    def replay_budget(self) -> int:
        """Bytes that a connection may send again in its turn."""
        return self._turn_budget

    def unpark(self, connection: S) -> None:
        """Remove a connection that does not want to send any more, if it is parked."""
        self._turns.unpark(connection)
        self._replays.unpark(connection)

    def forget(self, connection: S) -> None:
        """Remove a connection that has ended."""
        self._turns.forget(connection)
        self._replays.forget(connection)

    def _memory_filled(self) -> None:
        """Read no connection until the peer has what was sent."""
        self._turns.set_memory_full(True)
        self.budget = 0

    def _room_made(self) -> None:
        if self._turns.set_memory_full(False):
            self._give_turns_soon()
        self.budget = 0 if self._turns.closed else self._turn_budget

    def go_ahead(self, connection: S) -> int:
        """Return how many bytes a connection may send although the budget is 0."""
        if not self._attached:
            return 0
        return self._turns.allowance(connection, connection.bytes_in, self._loop.time())

    def must_wait(self, size: int) -> bool:
        """Return whether one that has just sent ``size`` bytes in its turn has to park again.

        Where many have more to send than the link takes, watching a socket again costs four system
        calls, and a turn that finds nothing to read costs one. One that sends little is watched
        all the same: a person may be typing there, and must be able to go ahead.
        """
        turns = self._turns
        return turns.closed or (turns.contended and size >= min(self._turn_budget, GRANT))

    def _give_turns_soon(self) -> None:
        if self._next_turns is None:
            self._next_turns = self._loop.call_soon(self._give_turns)

    def _give_turns(self) -> None:
        """Let each parked connection read once, for as long as the link takes it."""
        self._next_turns = None
        for turns in (self._replays, self._turns):
            for connection in turns.due():
                connection.take_turn()
        if any(turns.contended and not turns.closed for turns in (self._replays, self._turns)):
            self._give_turns_soon()
