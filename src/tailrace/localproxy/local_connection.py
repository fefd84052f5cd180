"""One local connection and its place in the tunnel: a state machine on any kind of local end.

Its bytes are moved by :mod:`.local_pump`, from which it inherits. What may not enter is a byte of
the local end: nothing is read from it here, or written to it. This says when it is read, and what
follows from all that the pump, the owner, the turns and time have to tell.

What happens to bytes in each state, and which states may follow which, stands in
:mod:`.connection_states`. Who moves it:

* the owner: :meth:`~LocalConnection.attach` ends DIALING; ``pause`` and ``resume`` pass on
  what the peer asks; ``tunnel_ended`` begins FLUSHING; ``end_linger`` and ``abort`` are the
  early ends of HALF_CLOSED and of everything;
* the turns: OPEN to PARKED when there is no budget, and back in ``take_turn``;
* the local end: its end of file leads to HALF_CLOSED where it lingers and to FLUSHING where
  it does not, its failure to CLOSED;
* time: silence ends HALF_CLOSED, and FLUSHING, CLOSING and RESETTING end when the local end
  takes nothing or does not close.

Only ``_enter`` changes the state, and whether the local end is read follows from the state alone.
Everything received is delivered before the local end is closed, unless it fails, stalls, or is
aborted. The session hears of an end that comes from here before the local end is closed.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

from ..errors import LocalProtocolError
from ..session import Connection, Ledger
from .connection_states import LIVE, NEXT, READ, ConnectionState
from .inbound import Inbound
from .local_end import LocalEnd
from .local_pump import LocalPump
from .log import TunnelLog
from .outbound import Outbound

__all__ = ["ConnectionHost", "LocalConnection"]

_DRAIN_TIMEOUT: Final = 5.0
"""Seconds a local peer has to close after everything was delivered to it."""
_FIRST_LOOK: Final = 0.01
_LAST_LOOK: Final = 1.0
"""Seconds between two looks at a local end, at first and at most; each wait is twice the last."""


# To look a member up in its class costs a twentieth of what a small message does.
_DIALING, _OPEN, _PARKED, _PAUSED, _HALF_CLOSED, *_ENDED = ConnectionState
_FLUSHING, _CLOSING, _RESETTING, _CLOSED = _ENDED


class ConnectionHost(Protocol):
    """What a local connection needs of the table it stands in."""

    loop: asyncio.AbstractEventLoop
    linger: float
    stall_timeout: float
    log: TunnelLog
    outbound: Outbound[LocalConnection]
    inbound: Inbound[LocalConnection]

    def half_closed(self, connection: LocalConnection) -> None:
        """Called when a client will send nothing more and may still wait for an answer."""

    def finished(self, connection: LocalConnection) -> None:
        """Called when the local end has sent its last byte, or what follows may be due."""

    def local_ended(self, connection: LocalConnection, failure: str) -> None:
        """Called when the local end has gone or has no more to say: end it in the tunnel.

        ``failure`` says why that is no end in order, and is empty if it is one.
        """

    def delivered(self, connection: LocalConnection) -> None:
        """Called when everything received for an ended connection was delivered."""

    def closed(self, connection: LocalConnection) -> None:
        """Called when the local end is closed; nothing follows."""


class LocalConnection(LocalPump):
    """The life of one local end and one connection of the session.

    ``lingers`` tells whether the local end keeps receiving after its end of file: true for
    clients (source), false for applications (destination), whose end of file ends the
    connection because the protocol cannot say "half-closed".
    """

    __slots__ = (
        "_broken",
        "_cut",
        "_host",
        "_lingers",
        "_peer_finished",
        "_timer",
        "name",
        "since",
        "state",
    )

    _outbound: Outbound[LocalConnection]
    _inbound: Inbound[LocalConnection]

    def __init__(self, host: ConnectionHost, connection: Connection, name: str, lingers: bool):
        super().__init__(connection, host.loop, host.outbound, host.inbound)
        self.name = name
        self.since = time.time()
        """When it came, in seconds since the epoch."""
        self.state: ConnectionState = _DIALING
        self._host = host
        self._lingers = lingers
        self._timer: asyncio.TimerHandle | None = None
        self._peer_finished = False
        self._broken: OSError | None = None
        self._cut = ""
        """Why it has ended in the tunnel other than in order; empty as long as it has not."""

    # -- transitions --------------------------------------------------------------------

    def _enter(self, state: ConnectionState) -> None:
        """Change the state; whether the local end is read goes with it, and the timer goes.

        Raises:
            LocalProtocolError: the state may not follow the present one.
        """
        if state not in NEXT[self.state]:
            raise LocalProtocolError(f"{self!r} cannot become {state.value}")
        end = self._end
        if self.state in READ and end is not None:
            end.stop_reading()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.state = state
        if state is _OPEN:
            self._start_reading()
        elif state not in LIVE:
            self.fd = -1
            self.takes = False
            if state is _CLOSING:
                self._start_discarding()

    def attach(self, end: LocalEnd) -> None:
        """Take over a connected local end and start to move bytes."""
        self._set_end(end)
        if self.state is _FLUSHING:
            self._flush()
        else:
            self._enter(_PAUSED if self.connection.is_paused else _OPEN)
            if self._peer_finished and not self._pieces:
                self._end_writing()

    def pause(self) -> None:
        """Read the local end no more, until :meth:`resume`: the peer takes nothing.

        What the local end still sends waits in the kernel, and so does its end of file.
        """
        if self.state is _PARKED or self._ledger is not None:
            self._outbound.unpark(self)
        if self.state in (_OPEN, _PARKED):
            self._enter(_PAUSED)

    def resume(self) -> None:
        """Read the local end again after :meth:`pause`, and first send what was lost again.

        One that has waited for a peer may outlive links from now on.
        """
        if self._counts is not self.connection.counts:
            self._open_books()
        unsent = self._ledger.unsent if self._ledger is not None else 0
        if self.state is _PAUSED:
            self._enter(_PARKED if unsent else _OPEN)
        elif self.state is not _HALF_CLOSED:
            return  # one that is parked waits for its turn already
        if unsent:
            self._outbound.ask_turn(self)

    # -- turns ------------------------------------------------------------------------------

    def _park(self) -> None:
        self._enter(_PARKED)
        self._outbound.park(self)

    def take_turn(self) -> None:
        """Read once, after having been parked; then read on, or park again."""
        if self._ledger is not None and self._ledger.unsent:
            self._send_again(self._ledger)
            return
        size = self._read_turn()
        if self.state is _PARKED:
            if self._outbound.must_wait(size):
                self._outbound.park(self)
            else:
                self._enter(_OPEN)

    def _send_again(self, ledger: Ledger) -> None:
        """Send once of what was lost with a link; then go on, or park again."""
        self._outbound.send(ledger.next_unsent(self._outbound.replay_budget))
        if ledger.unsent:
            self._outbound.ask_turn(self)
        elif self.state is _PARKED:
            self._enter(_OPEN)
        else:
            self._host.finished(self)

    # -- the end of either half -------------------------------------------------------------

    def _local_eof(self) -> None:
        """Everything read has been sent. A client may still wait for its answer."""
        if self._broken is not None:
            self._reading_failed(self._broken)
        elif self._ledger is not None:
            self._half_close()
        elif self._lingers:
            self._enter(_HALF_CLOSED)
            # Its deliveries have to be seen: it lingers for as long as it gets an answer.
            self.takes = False
            self._awaits_answer = True
            self._last_delivery = self._loop.time()
            self._linger(_FIRST_LOOK)
            if self.state is _HALF_CLOSED:
                self._host.half_closed(self)
        else:
            self._end_locally()

    def _half_close(self) -> None:
        """Tell the peer that the local end has sent its last byte."""
        self._enter(_HALF_CLOSED)
        self._host.finished(self)

    def peer_finished(self) -> None:
        """End our half once everything received is written: the peer sends nothing more."""
        self._peer_finished = True
        if self._end is not None and not self._pieces:
            self._end_writing()

    def _all_written(self) -> None:
        if self.state is _FLUSHING:
            self._flushed()
        elif self._peer_finished:
            self._end_writing()

    def _end_writing(self) -> None:
        assert self._end is not None
        # One that has failed says so when it is read.
        with suppress(OSError):
            self._end.shut_down()

    def end_linger(self) -> None:
        """Make room for another client, unless this half-closed one is getting its answer."""
        if self.state is _HALF_CLOSED and self._ledger is None and not self._takes_answer():
            self._end_locally()

    def _end_locally(self) -> None:
        """Reset in the tunnel, then deliver what was received and close."""
        self._enter(_FLUSHING)
        self._host.local_ended(self, "")
        if self.state is _FLUSHING:
            self._flush()

    # -- the end in the tunnel --------------------------------------------------------------

    def tunnel_ended(self, *, cut: str = "") -> None:
        """Deliver what was received, then close: the connection ended in the tunnel.

        One that was ``cut``, which says why, has not ended in order and is reset instead.
        """
        self._cut = self._cut or cut
        if self.state in LIVE:
            self._enter(_FLUSHING)
            self._outbound.forget(self)
            self._flush()
        elif self.state is _DIALING:
            self._enter(_FLUSHING)

    def _flush(self) -> None:
        """Wait until the local end has taken what was received, for a bounded time each."""
        if self._pieces:
            self._last_delivery = self._loop.time()
            self._arm(self._host.stall_timeout, self._flush_expired)
        else:
            self._flushed()

    def _flushed(self) -> None:
        """Close as the connection has ended: everything received is written."""
        if self._cut:
            self._enter(_RESETTING)
            self._last_delivery = self._loop.time()
            self._await_acknowledgement(0, _FIRST_LOOK)
        else:
            self._shut_down()

    def _shut_down(self) -> None:
        """Shut our half and wait for the local end to do the same.

        Closing at once would turn into a reset when unread bytes are left, and a reset
        destroys what the kernel has not delivered yet.
        """
        assert self._end is not None
        self._end.expect_end()
        try:
            self._end.shut_down()
        except OSError:
            self.abort()
            return
        self._enter(_CLOSING)
        self._arm(_DRAIN_TIMEOUT, self.abort)
        self._host.delivered(self)

    # -- failures ---------------------------------------------------------------------------

    def note_broken(self, error_number: int) -> None:
        """Note that the local end broke the connection, behind what there is to read."""
        self._broken = OSError(error_number, os.strerror(error_number))
        self._loop.call_soon(self._read_to_the_end)

    def _read_to_the_end(self) -> None:
        """Go on reading what came in before the local end broke the connection.

        uvloop calls back once when a socket has an error, and never again.
        """
        if self.state is _OPEN:
            assert self._end is not None
            self._end.stop_reading()
            self._start_reading()

    def _reading_failed(self, error: OSError) -> None:
        """End as the local end has; a stream of this process that was closed has sent its last."""
        if self._ledger is not None and error.errno == errno.EPIPE:
            self._half_close()
        else:
            self._local_failed(error)

    def _local_failed(self, error: OSError) -> None:
        self._host.log.debug("%s: local socket failed: %s", self.name, error)
        if self.state in LIVE:
            self._host.local_ended(self, self._failure_of(error))
        self.abort()

    def _failure_of(self, error: OSError) -> str:
        """Return what the peer is told of a failure; nothing where it is an end in order."""
        error = self._broken or error
        if self._ledger is None and (self.state is _HALF_CLOSED or error.errno == errno.EPIPE):
            # It had ended its sending half before, or has closed a stream of this process.
            return ""
        who = "client" if self._lingers else "application"
        if error.errno in (errno.ECONNRESET, errno.EPIPE):
            return f"the {who} reset the connection"
        return f"the connection of the {who} failed: {error.strerror}"

    def abort(self) -> None:
        """Close the local end at once; what still waits is lost, which a reset tells of."""
        if self.state is _CLOSED:
            return
        cut = bool(self._cut) or self.state in LIVE or bool(self._pieces)
        self._enter(_CLOSED)
        self._outbound.forget(self)
        if self._end is not None:
            if self._pieces:
                self._end.stop_writing()
            if cut:
                self._end.reset(self._cut)
            else:
                self._end.close()
        self._inbound.removed(self)
        self._host.closed(self)
        self._pieces.clear()
        self._counts.waiting = 0

    # -- time ---------------------------------------------------------------------------------

    def _arm(self, delay: float, expired: Callable[[], None]) -> None:
        self._timer = self._loop.call_later(delay, expired)

    def _linger(self, delay: float) -> None:
        """Wait for the answer to a half-closed client, unless nobody is there to get it."""
        assert self._end is not None
        left = self._last_delivery + self._host.linger - self._loop.time()
        if self._end.is_gone() or (left <= 0.0 and not self.waiting):
            self._end_locally()
        else:
            again = partial(self._linger, min(2.0 * delay, _LAST_LOOK))
            self._arm(min(delay, left) if left > 0.0 else delay, again)

    def _takes_answer(self) -> bool:
        """Return whether a half-closed client is getting its answer."""
        assert self._end is not None
        return self._answered and not self._end.is_gone()

    def _flush_expired(self) -> None:
        """Give up on a local end that has taken nothing for the stall timeout."""
        left = self._last_delivery + self._host.stall_timeout - self._loop.time()
        if left > 0.0:
            self._arm(left, self._flush_expired)
        else:
            self._give_up(self.waiting)

    def _await_acknowledgement(self, before: int, delay: float) -> None:
        """Reset as soon as the local end has got everything; it may take it slowly."""
        assert self._end is not None
        left = self._end.unacknowledged()
        now = self._loop.time()
        if left != before:
            self._last_delivery = now
        if not left or self._end.is_gone():
            self.abort()
        elif now - self._last_delivery >= self._host.stall_timeout:
            self._give_up(left)
        else:
            again = partial(self._await_acknowledgement, left, min(2.0 * delay, _LAST_LOOK))
            self._arm(delay, again)

    def _give_up(self, lost: int) -> None:
        """Close although the local end has not got all that was received for it."""
        self._host.log.warning(
            "%s: %d bytes could not be delivered: the local end takes nothing", self.name, lost
        )
        self.abort()

    def __repr__(self) -> str:
        return f"<{self.name} {self.state.value}>"
