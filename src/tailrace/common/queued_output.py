"""Lines for a reader that may be slow or gone: nobody waits until they are written.

A pipe takes 64 KiB that nobody reads, a terminal after Ctrl-S some more; the next write stops the
thread that does it. Were that the thread of the event loop, every connection would stop, and the
handlers of signals too. So each output has a thread of its own, which may stop, and a bounded
queue before it. A descriptor that does not block is no way out: it is shared with all other
processes that have the pipe or terminal open, and their own writes would fail.
"""

from __future__ import annotations

import logging
import os
import stat
from collections import deque
from collections.abc import Callable
from threading import Condition, Thread
from typing import Final, TextIO

__all__ = ["QueuedHandler", "QueuedOutput", "write_briefly"]

_MAX_WAITING: Final = 1024 * 1024
"""Bytes that wait in a queue at most."""
_MAX_WRITE: Final = 4096
"""Bytes of lines written together: on Linux so many stay in one piece in a pipe of many writers."""
_PATIENCE: Final = 1.0
"""Seconds that the end of a process waits for the reader."""


class QueuedOutput:
    """Writes lines to ``stream``, in order and from a thread of its own.

    When too much waits, lines are dropped until the reader has caught up; then the line
    ``dropped(N)`` stands in their place. A file is written to directly, as nobody has to read it,
    and so is any stream where no thread can be had. What cannot be written is lost: its reader is
    gone, or the disk is full.
    """

    def __init__(
        self,
        stream: TextIO,
        dropped: Callable[[int], str],
        max_waiting: int = _MAX_WAITING,
    ) -> None:
        self.failure: OSError | None = None
        """Why something could not be written; the latest reason."""
        self._stream = stream
        self._describe_dropped = dropped
        self._max_waiting = max_waiting
        self._descriptor = _descriptor(stream)
        self._may_wait = self._descriptor is not None and _has_reader(self._descriptor)
        errors = getattr(stream, "errors", None)
        self._errors = "backslashreplace" if errors in (None, "strict") else errors
        self._lines: deque[bytes] = deque()
        self._waiting = 0
        self._dropped = 0
        self._closed = False
        # Its lock is reentrant: a signal handler or a destructor may log while this logs.
        self._changed = Condition()
        self._thread: Thread | None = None

    def write(self, text: str) -> None:
        """Queue a line with its end, or several of them that belong together."""
        with self._changed:
            if self._descriptor is None:
                self._stream.write(text)
                self._stream.flush()
                return
            data = text.encode(self._stream.encoding, self._errors)
            if not self._has_thread():
                self._write(data)
                return
            if self._dropped or self._waiting + len(data) > self._max_waiting:
                self._dropped += 1
                return
            self._lines.append(data)
            self._waiting += len(data)
            self._changed.notify_all()

    def close(self, patience: float = _PATIENCE) -> None:
        """Wait at most ``patience`` seconds until all is written; then give the rest up."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(patience)

    def _has_thread(self) -> bool:
        if self._thread is None and self._may_wait:
            thread = Thread(target=self._run, name="tailrace output", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # none left, or the interpreter is about to end
                self._may_wait = False
            else:
                self._thread = thread
        return self._thread is not None

    def _run(self) -> None:
        while data := self._next():
            self._write(data)

    def _write(self, data: bytes) -> None:
        assert self._descriptor is not None
        try:
            _write_all(self._descriptor, data)
        except OSError as error:
            self.failure = error

    def _next(self) -> bytes:
        """Wait for lines and return some of them; b"" at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._dropped or self._closed)
            if not self._lines and self._dropped:
                count, self._dropped = self._dropped, 0
                return self._describe_dropped(count).encode()
            taken = [self._lines.popleft()] if self._lines else []
            size = sum(map(len, taken))
            while self._lines and size + len(self._lines[0]) <= _MAX_WRITE:
                size += len(self._lines[0])
                taken.append(self._lines.popleft())
            self._waiting -= size
            return b"".join(taken)


class QueuedHandler(logging.Handler):
    """Logs to ``stream`` through :attr:`output`, and how many lines were dropped there."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.output = QueuedOutput(stream, self._dropped)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the line of ``record``."""
        try:
            self.output.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Wait a bounded time until all is written; :func:`logging.shutdown` calls this."""
        super().close()
        self.output.close()

    def _dropped(self, count: int) -> str:
        text = "%d lines were dropped: nobody read the log in time"
        name = "tailrace.log"
        record = logging.LogRecord(name, logging.WARNING, __file__, 0, text, (count,), None)
        return self.format(record) + "\n"


def write_briefly(stream: TextIO, text: str) -> None:
    """Write a line with its end, and wait at most a second for its reader."""
    output = QueuedOutput(stream, str)
    output.write(text)
    output.close()


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (AttributeError, OSError, ValueError):  # an object that replaces the stream
        return None


def _has_reader(descriptor: int) -> bool:
    """Return whether somebody has to read what is written, so that writing may wait."""
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # another process has made it so
            _wait_writable(descriptor)


def _wait_writable(descriptor: int) -> None:
    import select  # hardly ever needed

    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()
