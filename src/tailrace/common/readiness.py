"""Readiness of sockets, also on event loops that do not tell it.

The loop that asyncio makes on Windows (``ProactorEventLoop``) has no ``add_reader``. There a thread
waits in ``select`` for all sockets of a loop, and tells the loop, which calls back. The thread does
not look again before that is done: until then the same sockets would be ready, again and again.
Windows takes 512 sockets in one ``select``.
"""

from __future__ import annotations

import asyncio
import select
import socket
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

__all__ = ["Readiness", "SelectorThread", "readiness_of"]

_Callback = Callable[[], object]


class Readiness(Protocol):
    """What an event loop has that tells the readiness of sockets."""

    def add_reader(self, fd: int, callback: Callable[..., object], *args: object) -> object:
        """Call ``callback`` whenever something can be read."""

    def remove_reader(self, fd: int) -> bool:
        """Call it no more."""

    def add_writer(self, fd: int, callback: Callable[..., object], *args: object) -> object:
        """Call ``callback`` whenever something can be written."""

    def remove_writer(self, fd: int) -> bool:
        """Call it no more."""


def readiness_of(loop: asyncio.AbstractEventLoop) -> Readiness:
    """Return the loop itself, or a thread of it where the loop does not tell."""
    if sys.platform == "win32" and isinstance(loop, asyncio.ProactorEventLoop):
        return SelectorThread.of(loop)
    return loop


class SelectorThread:
    """A thread that waits for the sockets of one loop, until the loop is shut down."""

    _of_loops: Final[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, SelectorThread]] = (
        weakref.WeakKeyDictionary()
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._readers: dict[int, _Callback] = {}
        self._writers: dict[int, _Callback] = {}
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        self._condition = threading.Condition()
        self._wanted: tuple[list[int], list[int]] | None = None
        """What the thread is to wait for; ``None`` while the loop calls back."""
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="tailrace sockets", daemon=True)
        self._thread.start()
        self._end = self._until_shutdown()
        # asyncio.run() closes what is left of generators that have begun.
        self._begun = loop.create_task(anext(self._end))
        self._look()

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> SelectorThread:
        """Return the thread of a loop, which is started if there is none."""
        found = cls._of_loops.get(loop)
        if found is None:
            found = cls._of_loops[loop] = cls(loop)
        return found

    def add_reader(self, fd: int, callback: Callable[..., object], *args: object) -> None:
        """Call ``callback`` whenever something can be read."""
        self._readers[fd] = partial(callback, *args)
        self._wake()

    def remove_reader(self, fd: int) -> bool:
        """Call it no more."""
        self._wake()
        return self._readers.pop(fd, None) is not None

    def add_writer(self, fd: int, callback: Callable[..., object], *args: object) -> None:
        """Call ``callback`` whenever something can be written."""
        self._writers[fd] = partial(callback, *args)
        self._wake()

    def remove_writer(self, fd: int) -> bool:
        """Call it no more."""
        self._wake()
        return self._writers.pop(fd, None) is not None

    async def _until_shutdown(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            self._close()

    def _close(self) -> None:
        with self._condition:
            self._is_closed = True
            self._condition.notify()
        self._wake()
        self._thread.join()
        self._waker.close()
        self._woken.close()

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # then it is awake already
            self._waker.send(b"\0")

    # On the thread.

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._wanted is not None or self._is_closed)
                if self._is_closed or self._wanted is None:
                    return
                reading, writing = self._wanted
                self._wanted = None
            try:
                # Windows tells of a connection that failed by the third list.
                ready, able, failed = select.select(
                    [self._woken.fileno(), *reading], writing, writing
                )
            except (OSError, ValueError):  # one was closed meanwhile; the loop knows which
                ready, able, failed = [], [], []
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._call, ready, [*able, *failed])

    # On the loop.

    def _call(self, ready: list[int], able: list[int]) -> None:
        if self._is_closed:
            return
        with suppress(BlockingIOError):
            self._woken.recv(4096)
        try:
            for fd in ready:
                self._call_one(self._readers, fd)
            for fd in able:
                self._call_one(self._writers, fd)
        finally:
            self._look()

    def _call_one(self, callbacks: dict[int, _Callback], fd: int) -> None:
        # One that was called before it may have removed it.
        callback = callbacks.get(fd)
        if callback is None:
            return
        try:
            callback()
        except Exception as error:
            message = "Exception in callback of a socket"
            self._loop.call_exception_handler({"message": message, "exception": error})

    def _look(self) -> None:
        with self._condition:
            self._wanted = list(self._readers), list(self._writers)
            self._condition.notify()
