"""Local ends within this process: a pair of asyncio streams instead of a socket.

One side is the :class:`~.local_end.LocalEnd` that a connection drives, the other the
reader and the writer that a program uses as if they were those of a TCP connection:

* What the program writes waits in the end until the connection reads it; over the high-water
  mark, ``drain`` waits.
* What comes from the tunnel goes into the stream reader. Once that holds more than half a mebibyte
  the end takes no more, which to the connection is a socket that is full. When the proxy ends, the
  reader gets all that was received: nobody waits for a program that has stopped reading.
* ``write_eof`` ends the program's half alone, as ``shutdown`` would. After ``close`` everything
  written is still sent, and then sending to the program fails, as to a socket that was closed.
  Unlike a socket, the end knows at once that the program has closed, so the connection does not
  linger for an answer that cannot be delivered.
* The program reads an end of file where a socket would. Where the connection was reset, it reads
  what came before, and then gets ``ConnectionResetError``, whose text says why if that is known.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final

from .byte_queue import ByteQueue, whole

__all__ = ["IN_PROCESS", "StreamEnd", "Streams", "new_streams"]

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

IN_PROCESS: Final = "in process"
"""How events and records name a local end of this kind."""

_HIGH: Final = 64 * 1024
"""Unread bytes of the program over which ``drain`` waits, as asyncio has it for sockets; it ends at
a quarter of them, unless the program sets other limits."""
_FULL: Final = 512 * 1024
"""Bytes a reader may hold. What a link brings in one turn of the loop goes in, so that a program
that keeps up with it is never one that holds it up."""
_RESET: Final = os.strerror(errno.ECONNRESET)


def new_streams(loop: asyncio.AbstractEventLoop) -> tuple[StreamEnd, Streams]:
    """Return both sides of a new stream."""
    reader = _Reader(loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    end = StreamEnd(loop, protocol)
    return end, (reader, asyncio.StreamWriter(end.transport, protocol, reader, loop))


class _Reader(asyncio.StreamReader):
    """A reader that copies nothing large, and gives what has come before a failure.

    What has come waits in a queue, of which :meth:`read` returns large pieces as they are. The
    other methods are asyncio's and look into its buffer: all is there while one of them runs, and
    afterwards what it has left, which comes before the queue.

    After a failure, asyncio's reader forgets what has come before it, and the buffer of a socket
    does not. To asyncio's, the failure is an end of file that nothing follows.
    """

    _buffer: bytearray
    _eof: bool
    _limit: int
    _paused: bool
    _transport: asyncio.ReadTransport
    _wait_for_data: Callable[[str], Awaitable[None]]
    _wakeup_waiter: Callable[[], None]

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._failure: Exception | None = None
        self._queue = ByteQueue()
        self._readings = 0
        """How many methods of asyncio run: what comes meanwhile goes into its buffer."""

    def feed_data(self, data: Any) -> None:
        """Take what has come, and pause the transport when that is too much."""
        if self._readings:
            self._buffer += data
        else:
            self._queue.put(data)
        self._wakeup_waiter()
        if not self._paused and len(self._queue) + len(self._buffer) > _FULL:
            self._paused = True
            self._transport.pause_reading()

    def set_exception(self, exc: Exception) -> None:
        """Raise ``exc`` to those who read on behind the last byte."""
        self._failure = exc
        self.feed_eof()

    def exception(self) -> Exception | None:
        """Return the failure, ``None`` if there is none."""
        return self._failure

    def at_eof(self) -> bool:
        """Return whether everything has been read, up to an end in order."""
        return self._failure is None and not self._queue and super().at_eof()

    async def read(self, n: int = -1) -> bytes:
        """Read as :meth:`asyncio.StreamReader.read`, which may return less than has come."""
        if n < 0:
            return await super().read(n)
        if n == 0:
            return b""
        if not (self._queue or self._buffer or self._eof):
            await self._wait_for_data("read")
        if self._buffer:
            data = bytes(memoryview(self._buffer)[:n])
            del self._buffer[:n]
        else:
            data = self._queue.take(n)
        if not data and self._failure is not None:
            raise self._failure
        self._maybe_resume_transport()
        return data

    async def readuntil(self, separator: Any = b"\n") -> bytes:
        """Read as :meth:`asyncio.StreamReader.readuntil`; ``readline`` goes through here."""
        return await self._in_buffer(super().readuntil(separator))

    async def readexactly(self, n: int) -> bytes:
        """Read as :meth:`asyncio.StreamReader.readexactly`."""
        return await self._in_buffer(super().readexactly(n))

    async def _in_buffer(self, reading: Awaitable[bytes]) -> bytes:
        """Read with a method of asyncio, which finds everything in its buffer."""
        if self._queue:
            self._buffer += self._queue.take_all()
        self._readings += 1
        try:
            return await reading
        except asyncio.IncompleteReadError:
            if self._failure is not None:
                raise self._failure from None
            raise
        finally:
            self._readings -= 1

    def _maybe_resume_transport(self) -> None:
        if self._paused and len(self._queue) + len(self._buffer) <= self._limit:
            self._paused = False
            self._transport.resume_reading()


class _Watch:
    """Readiness of one direction: calls back in turns of its own for as long as it is ready."""

    __slots__ = ("_callback", "_handle", "_loop", "_ready")

    def __init__(self, loop: asyncio.AbstractEventLoop, ready: Callable[[], bool]) -> None:
        self._loop = loop
        self._ready = ready
        self._callback: Callable[[], None] | None = None
        self._handle: asyncio.Handle | None = None

    def start(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self.check()

    def stop(self) -> None:
        self._callback = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def check(self) -> None:
        """Called whenever the direction may have become ready."""
        if self._callback is not None and self._handle is None and self._ready():
            self._handle = self._loop.call_soon(self._call_back)

    def _call_back(self) -> None:
        self._handle = None
        if self._callback is not None and self._ready():
            self._callback()
            self.check()


class StreamEnd:
    """The connection's side of a stream, see :class:`~.local_end.LocalEnd`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol) -> None:
        self._loop = loop
        self.descriptor = -1
        self._protocol = protocol
        self._written = ByteQueue()
        self._low, self._high = _HIGH // 4, _HIGH
        self._eof = False
        """Whether the program will write no more."""
        self._failure: OSError | None = None
        """What the connection sees of a program that has closed or reset its side."""
        self._reader_full = False
        self._bounded = True
        """Whether the reader can be full."""
        self._writer_full = False
        self._lost = False
        """Whether the program has been told, or soon will be, that all is over."""
        self._readability = _Watch(loop, self._can_read)
        self._writability = _Watch(loop, self._can_write)
        self.start_reading = self._readability.start
        self.stop_reading = self._readability.stop
        self.start_writing = self._writability.start
        self.stop_writing = self._writability.stop
        self.transport = _ProgramTransport(self)
        protocol.connection_made(self.transport)

    # -- the connection's side ----------------------------------------------------------

    def recv_into(self, buffer: memoryview, limit: int) -> int:
        """Take at most ``limit`` bytes that the program has written; 0 is its end of file."""
        written = self._written
        if written:
            size = written.take_into(buffer, limit)
            if self._writer_full and len(written) <= self._low:
                self._writer_full = False
                self._protocol.resume_writing()
            if self._failure is not None and not written:
                self._lose(None)
            return size
        if self._failure is not None:
            raise self._failure
        if self._eof:
            return 0
        raise BlockingIOError

    def send(self, data: memoryview) -> int:
        """Give data to the program's reader, all of it or, when that is full, nothing."""
        if self._failure is not None:
            if self._written:
                # As a kernel takes it: what was written before the close is still to be read.
                return len(data)
            raise self._failure
        if self._reader_full:
            raise BlockingIOError
        self._protocol.data_received(whole(data))
        return len(data)

    def sendmsg(self, pieces: list[memoryview]) -> int:
        """Give pieces to the reader until it is full."""
        sent = self.send(pieces[0])
        for piece in pieces[1:]:
            if self._reader_full:
                break
            sent += self.send(piece)
        return sent

    def expect_end(self) -> None:
        """Give the reader all that waits, whether it is read or not."""
        self._bounded = False
        self.program_takes(True)

    def pending_error(self) -> int:
        """Return the error number of what the program did to its side, or 0."""
        return 0 if self._failure is None else self._failure.errno or 0

    def unacknowledged(self) -> int:
        """Return 0: what was sent is with the program."""
        return 0

    def shut_down(self) -> None:
        """Give the program its end of file."""
        if not self._lost:
            self._protocol.eof_received()

    def is_gone(self) -> bool:
        """Return whether the program has closed or reset its side."""
        return self._failure is not None

    def close(self) -> None:
        """Give up the stream; the program gets an end of file, if it has had none."""
        self._lose(None)

    def reset(self, reason: str = "") -> None:
        """Give up the stream; the program gets ``ConnectionResetError``, and the reason in it."""
        text = f"{_RESET}: {reason}" if reason else _RESET
        self._lose(ConnectionResetError(errno.ECONNRESET, text))

    def _can_read(self) -> bool:
        return bool(self._written) or self._eof

    def _can_write(self) -> bool:
        return not self._reader_full

    def _lose(self, error: OSError | None) -> None:
        if not self._lost:
            self._lost = True
            self._written.clear()
            self._loop.call_soon(self._protocol.connection_lost, error)

    # -- the program's side ---------------------------------------------------------------

    @property
    def is_closing(self) -> bool:
        """Whether the program has closed its side, or all is over."""
        return self._failure is not None or self._lost

    @property
    def reader_full(self) -> bool:
        """Whether the program takes nothing now."""
        return self._reader_full

    @property
    def unsent(self) -> int:
        """Bytes the program has written that the connection has not read."""
        return len(self._written)

    @property
    def limits(self) -> tuple[int, int]:
        """Unread bytes of the program at which ``drain`` ends, and over which it waits."""
        return self._low, self._high

    @limits.setter
    def limits(self, limits: tuple[int, int]) -> None:
        self._low, self._high = limits
        if len(self._written) > self._high and not self._writer_full:
            self._writer_full = True
            self._protocol.pause_writing()

    def program_wrote(self, data: bytes | bytearray | memoryview) -> None:
        """Called with what the program sends."""
        if self.is_closing:
            return
        if self._eof:
            raise RuntimeError("write() after write_eof()")
        self._written.put(data)
        if len(self._written) > self._high and not self._writer_full:
            self._writer_full = True
            self._protocol.pause_writing()
        self._readability.check()

    def program_ended(self) -> None:
        """Called when the program will send no more."""
        self._eof = True
        self._readability.check()

    def program_gone(self, error_number: int) -> None:
        """Called when the program closes its side (EPIPE) or resets it (ECONNRESET)."""
        if not self.is_closing or error_number == errno.ECONNRESET:
            self._failure = OSError(error_number, os.strerror(error_number))
            if not self._written or error_number == errno.ECONNRESET:
                self._lose(None)
            self.program_ended()
            self.program_takes(True)

    def program_takes(self, takes: bool) -> None:
        """Called when the program's reader is full, or is not any more."""
        self._reader_full = self._bounded and not takes
        self._writability.check()


class _ProgramTransport(asyncio.Transport):
    """The program's side of a stream, as its reader and its writer drive it."""

    def __init__(self, end: StreamEnd) -> None:
        super().__init__()
        self._end = end

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._end.program_wrote(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._end.program_ended()

    def close(self) -> None:
        self._end.program_gone(errno.EPIPE)

    def abort(self) -> None:
        self._end.program_gone(errno.ECONNRESET)

    def is_closing(self) -> bool:
        return self._end.is_closing

    def pause_reading(self) -> None:
        self._end.program_takes(False)

    def resume_reading(self) -> None:
        self._end.program_takes(True)

    def is_reading(self) -> bool:
        return not (self._end.reader_full or self._end.is_closing)

    def get_write_buffer_size(self) -> int:
        return self._end.unsent

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._end.limits

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = _HIGH if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._end.limits = low, high
