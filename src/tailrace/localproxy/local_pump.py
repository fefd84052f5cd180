"""The bytes of one local connection: from its local end to the tunnel, and back.

The local end (:mod:`.local_end`) is a socket (:mod:`.sockets`), or a stream of this process
(:mod:`.in_process`). Both are driven by readiness and not as asyncio transports: bytes are
read behind the gap of a buffer that all connections share, and what an end does not take at
once is copied exactly once. (A transport would own a buffer for each connection, and uvloop's
keep views of memory that is about to be reused.)

What may not enter is the life of a connection: its states, timers, and any choice of what follows
from an end, a failure or a lack of budget. Those are told to the state machine that inherits from
this (:mod:`.local_connection`), by the abstract methods of :class:`LocalPump`. The machine says
when the local end is read; it is written exactly while something waits.

This is also the reference of what the extension does with sockets without the interpreter. Its
``Pump`` (:mod:`tailrace.common.counts`) stands in for ``_readable`` and ``data_received``. What it
leaves to Python, it calls by name: ``_readable`` where nothing may be sent, ``keep``,
``nothing_read``, ``note_broken``, ``rest_received``, ``mark_reached`` and ``writing_failed``.
"""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Final

from ..common.counts import Pump
from ..common.extension import load
from ..session import LARGE, Block, Connection, Counts, Ledger, ReplayBuffer
from .inbound import Inbound
from .local_end import LocalEnd
from .outbound import Outbound

__all__ = ["LocalPump"]

_GAP: Final = Block.GAP
_MAX_PIECES: Final = 64
"""Pieces of waiting data handed over at once."""
_NOTHING: Final[deque[memoryview]] = deque(maxlen=0)
"""What waits for most local ends; a deque of its own takes 760 bytes."""


class LocalPump(Pump, ABC):
    """What moves bytes between one local end and one connection of the session."""

    __slots__ = (
        "_answered",
        "_awaits_answer",
        "_end",
        "_inbound",
        "_last_delivery",
        "_ledger",
        "_loop",
        "_pieces",
    )

    connection: Connection
    _counts: Counts
    _ledger: Ledger | None
    _outbound: Outbound[Any]
    _replay: ReplayBuffer | None

    def __init__(
        self,
        connection: Connection,
        loop: asyncio.AbstractEventLoop,
        outbound: Outbound[Any],
        inbound: Inbound[Any],
    ) -> None:
        self.connection = connection
        self.fd = -1
        self.takes = False
        self._open_books()
        self._loop = loop
        self._outbound = outbound
        self._inbound = inbound
        self._end: LocalEnd | None = None
        self._pieces = _NOTHING
        """What has come and waits for the local end; it is written while there is any."""
        self._last_delivery = 0.0
        """When the local end took something that had to wait, or a part of its answer."""
        self._awaits_answer = False
        """Whether what is delivered is an answer: it is noted, which the extension does not."""
        self._answered = False
        """Whether some of that was delivered at once."""
        connection.sink = self

    def _open_books(self) -> None:
        """Count in the books of the connection, which may have got others."""
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

    def _set_end(self, end: LocalEnd) -> None:
        """Write to a connected local end, first of all what waits; it is not read yet."""
        self._end = end
        if load() is not None:
            self.fd = end.descriptor
        if self._pieces:
            end.start_writing(self._writable)
        else:
            self.takes = self.fd >= 0

    def expect_end(self) -> None:
        """Deliver what waits even to a program of this process that does not read."""
        if self._end is not None:
            self._end.expect_end()

    # -- what the state machine decides -----------------------------------------------------

    @abstractmethod
    def _park(self) -> None:
        """Called when there is something to read and no budget for it."""

    @abstractmethod
    def pause(self) -> None:
        """Called when there is something to read and the peer allows nothing more."""

    @abstractmethod
    def _local_eof(self) -> None:
        """Called when everything that the local end has sent was read and sent on."""

    @abstractmethod
    def note_broken(self, error_number: int) -> None:
        """Called when the local end has broken the connection, behind what there is to read."""

    @abstractmethod
    def _reading_failed(self, error: OSError) -> None:
        """Called when the local end cannot be read."""

    @abstractmethod
    def _local_failed(self, error: OSError) -> None:
        """Called when the local end cannot be written."""

    @abstractmethod
    def _all_written(self) -> None:
        """Called when the local end has taken the last byte that waited."""

    @abstractmethod
    def abort(self) -> None:
        """Called when a local end whose bytes are dropped is needed no more."""

    # -- local end to tunnel ----------------------------------------------------------------

    def _start_reading(self) -> None:
        """Read the local end, and send what it says."""
        assert self._end is not None
        self._end.start_reading(self._readable if self.fd < 0 else self.readable)

    def _start_discarding(self) -> None:
        """Read the local end, and drop what it says."""
        assert self._end is not None
        self._end.start_reading(self._discard)

    def _read_turn(self) -> int:
        """Read and send once, within the budget; return how many bytes."""
        before = self.bytes_in
        if self.fd < 0:
            self._read(self._outbound.budget)
        else:
            self.readable()
        return self.bytes_in - before

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
        start = _GAP - len(header)
        block.memory[start:_GAP] = header
        message = block.view[start : _GAP + size]
        outbound.send(message)
        ledger = self._ledger
        if ledger is None:
            return
        if size >= LARGE:
            self.keep(block, message, size)
            return
        ledger.replay.tail += message
        ledger.small_room -= len(message)
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
            if self._awaits_answer:
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
        if not self._pieces:
            self._pieces = deque()
            if self._end is not None:
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
            self._pieces = _NOTHING
            end.stop_writing()
            self.takes = self.fd >= 0 and not self._awaits_answer
            self._all_written()
