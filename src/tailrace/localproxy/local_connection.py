"""One local connection and its place in the tunnel: a state machine on any kind of local end.

It drives a :mod:`.local_end`: a socket (:mod:`.sockets`), or a stream of this process
(:mod:`.in_process`). Both are driven by readiness and not as asyncio transports: bytes are
read behind the gap of a buffer that all connections share, and what an end does not take at
once is copied exactly once. (A transport would own a buffer for each connection, and uvloop's
keep views of memory that is about to be reused.)

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

Only ``_enter`` changes the state, and whether the local end is read follows from the state alone;
it is written exactly while something waits. Everything received is delivered before the local end
is closed, unless it fails, stalls, or is aborted. The session hears of an end that comes from here
before the local end is closed.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

from ..common.counts import Pump
from ..common.extension import load
from ..errors import LocalProtocolError
from ..session import LARGE, Block, Connection, Counts, Ledger, ReplayBuffer
from .connection_states import FLOWING, LIVE, NEXT, READ, ConnectionState
from .inbound import Inbound
from .local_end import LocalEnd
from .log import TunnelLog
from .outbound import Outbound

__all__ = ["ConnectionHost", "LocalConnection"]

_DRAIN_TIMEOUT: Final = 5.0
"""Seconds a local peer has to close after everything was delivered to it."""
_FIRST_LOOK: Final = 0.01
_LAST_LOOK: Final = 1.0
"""Seconds between two looks at a local end, at first and at most; each wait is twice the last."""
_MAX_PIECES: Final = 64
"""Pieces of waiting data handed over at once."""


# To look a member up in its class costs a twentieth of what a small message does.
(
    _DIALING,
    _OPEN,
    _PARKED,
    _PAUSED,
    _HALF_CLOSED,
    _FLUSHING,
    _CLOSING,
    _RESETTING,
    _CLOSED,
) = ConnectionState


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


class LocalConnection(Pump):
    """The pump between one local end and one connection of the session.

    ``lingers`` tells whether the local end keeps receiving after its end of file: true for
    clients (source), false for applications (destination), whose end of file ends the
    connection because the protocol cannot say "half-closed".
    """

    __slots__ = (
        "_answered",
        "_broken",
        "_cut",
        "_end",
        "_host",
        "_inbound",
        "_last_delivery",
        "_ledger",
        "_lingers",
        "_loop",
        "_peer_finished",
        "_pieces",
        "_timer",
        "name",
        "since",
        "state",
    )

    connection: Connection
    _counts: Counts
    _outbound: Outbound[LocalConnection]
    _replay: ReplayBuffer | None

    def __init__(self, host: ConnectionHost, connection: Connection, name: str, lingers: bool):
        self.connection = connection
        self.fd = -1
        self.takes = False
        self.name = name
        self.since = time.time()
        """When it came, in seconds since the epoch."""
        self.state: ConnectionState = _DIALING
        self._open_books()
        self._host = host
        self._loop = host.loop
        self._outbound = host.outbound
        self._inbound = host.inbound
        self._lingers = lingers
        self._end: LocalEnd | None = None
        self._pieces: deque[memoryview] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._last_delivery = 0.0
        self._answered = False
        self._peer_finished = False
        self._broken: OSError | None = None
        self._cut = ""
        """Why it has ended in the tunnel other than in order; empty as long as it has not."""
        connection.sink = self

    def _open_books(self) -> None:
        self._counts = self.connection.counts
        self._ledger = self.connection.ledger
        self._replay = self._ledger.replay if self._ledger is not None else None

    @property
    def waiting(self) -> int:
        """Bytes received from the tunnel that the local end has not taken yet."""
        return self._counts.waiting

    @property
    def bytes_in(self) -> int:
        """Bytes read from the local end."""
        return self._counts.sent

    @property
    def bytes_out(self) -> int:
        """Bytes received from the tunnel."""
        return self._counts.received

    @property
    def attached(self) -> bool:
        """Whether the connection ever had a local end."""
        return self._end is not None

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
        if state in READ and end is not None:
            readable = self._readable if self.fd < 0 else self.readable
            end.start_reading(readable if state is _OPEN else self._discard)
        self._note_takes()

    def _note_takes(self) -> None:
        """Let what comes be written without Python where nothing else has to be done.

        A half-closed client whose connection ends with its link lingers for as long as it gets an
        answer, so its deliveries have to be seen.
        """
        state = self.state
        flows = state in FLOWING or (state is _HALF_CLOSED and self._replay is not None)
        self.takes = flows and self.fd >= 0 and not self._pieces

    def attach(self, end: LocalEnd) -> None:
        """Take over a connected local end and start to move bytes."""
        self._end = end
        if load() is not None:
            self.fd = end.descriptor
        if self._pieces:
            end.start_writing(self._writable)
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

    def _park(self) -> None:
        self._enter(_PARKED)
        self._outbound.park(self)

    def take_turn(self) -> None:
        """Read once, after having been parked; then read on, or park again."""
        if self._ledger is not None and self._ledger.unsent:
            self._send_again(self._ledger)
            return
        before = self._counts.room
        if self.fd < 0:
            self._read(self._outbound.budget)
        else:
            self.readable()
        if self.state is _PARKED:
            if self._outbound.must_wait(before - self._counts.room):
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

    def _local_eof(self) -> None:
        """Everything read has been sent. A client may still wait for its answer."""
        if self._broken is not None:
            self._reading_failed(self._broken)
        elif self._ledger is not None:
            self._half_close()
        elif self._lingers:
            self._enter(_HALF_CLOSED)
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

    def expect_end(self) -> None:
        """Deliver what waits even to a program of this process that does not read."""
        if self._end is not None:
            self._end.expect_end()

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
        self.fd = -1
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

    # -- local end to tunnel ----------------------------------------------------------------

    def _readable(self) -> None:
        outbound = self._outbound
        limit = outbound.budget or outbound.go_ahead(self)
        if limit:
            self._read(limit)
        else:
            self._park()

    def _read(self, limit: int) -> None:
        """Read at most ``limit`` bytes and send them, or see the end of the local end."""
        end, outbound, counts = self._end, self._outbound, self._counts
        assert end is not None
        if counts.room < limit:
            limit = counts.room
            if not limit:
                self.pause()
                return
        block = outbound.block
        try:
            size = end.recv_into(block.payload, limit)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._reading_failed(error)
            return
        if not size:
            self._local_eof()
            return
        error_number = end.pending_error()
        if error_number:
            self.note_broken(error_number)
        counts.room -= size
        header = self.connection.data_header(size)
        start = block.GAP - len(header)
        block.memory[start : block.GAP] = header
        message = block.view[start : block.GAP + size]
        outbound.send(message)
        ledger = self._ledger
        if ledger is None:
            return
        if size >= LARGE:
            self.keep(block, message, size)
            return
        ledger.replay.tail += message
        ledger.small_room -= size
        if ledger.small_room < 0:
            ledger.count_small()

    def keep(self, block: Block, message: memoryview, size: int) -> None:
        """Keep a large message of ``size`` bytes of payload that was just sent from its block.

        The next read takes another block.
        """
        assert self._ledger is not None
        self._outbound.block = self._ledger.keep(block, message, size)

    def nothing_read(self, error_number: int) -> None:
        """Called when a read has found the end of a socket, or an error of that number."""
        if error_number:
            self._reading_failed(OSError(error_number, os.strerror(error_number)))
        else:
            self._local_eof()

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
            self._end.start_reading(self._readable if self.fd < 0 else self.readable)

    def _discard(self) -> None:
        """Drop what the local end still sends; it can go nowhere.

        As soon as everything of ours is acknowledged, close: a local end that keeps
        sending then gets a reset.
        """
        assert self._end is not None
        buffer = self._outbound.block.payload
        try:
            size = self._end.recv_into(buffer, len(buffer))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            size = 0
        if not size or not self._end.unacknowledged():
            self.abort()

    # -- tunnel to local end ------------------------------------------------------------------

    def data_received(self, payload: memoryview) -> None:
        """Write ``payload`` to the local end; what it does not take at once is copied."""
        counts = self._counts
        size = len(payload)
        counts.received += size
        end = self._end
        if end is not None and not self._pieces:
            try:
                sent = end.send(payload)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._local_failed(error)
                return
            if self.state is _HALF_CLOSED:
                self._last_delivery = self._loop.time()
                self._answered = True
            if sent == size:
                if counts.received >= counts.ack_at:
                    self._inbound.mark_reached(self)
                return
            payload = payload[sent:]
        self.rest_received(payload)

    def rest_received(self, rest: memoryview) -> None:
        """Keep what the local end does not take now, which is counted as received already."""
        counts, size = self._counts, len(rest)
        if self._end is not None and not self._pieces:
            self._end.start_writing(self._writable)
        self._pieces.append(memoryview(bytes(rest)))
        self.takes = False
        counts.waiting += size
        self._inbound.buffered(self, size)
        if counts.received >= counts.ack_at:
            self._inbound.mark_reached(self)

    def mark_reached(self) -> None:
        """Called when as much has come that it has to be looked at."""
        self._inbound.mark_reached(self)

    def writing_failed(self, error_number: int) -> None:
        """Called when the socket does not take what has come, because of an error."""
        self._local_failed(OSError(error_number, os.strerror(error_number)))

    def _writable(self) -> None:
        end, pieces = self._end, self._pieces
        assert end is not None
        try:
            if len(pieces) == 1:
                sent = end.send(pieces[0])
            else:
                sent = end.sendmsg([pieces[i] for i in range(min(len(pieces), _MAX_PIECES))])
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._local_failed(error)
            return
        left = sent
        while left:
            piece = pieces[0]
            if len(piece) > left:
                pieces[0] = piece[left:]
                break
            left -= len(piece)
            pieces.popleft()
        self._counts.waiting -= sent
        self._last_delivery = self._loop.time()
        self._inbound.taken(self, sent)
        if not pieces:
            end.stop_writing()
            self._note_takes()
            if self.state is _FLUSHING:
                self._flushed()
            elif self._peer_finished:
                self._end_writing()

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
