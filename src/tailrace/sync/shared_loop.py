"""The one event loop behind all that blocks: it runs while anybody needs it."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeAlias

from ..common.background_loop import BackgroundLoop
from ..errors import LocalProtocolError

__all__ = ["SHARED", "SharedLoop"]

_Leave: TypeAlias = Callable[[], Coroutine[Any, Any, object]]

_EXIT_SECONDS: Final = 5.0
"""For the blocks that a program has not left when it ends."""
_THREAD_SECONDS: Final = 1.0
"""For the thread to end then."""


class SharedLoop:
    """A loop in a thread: started for its first user, ended with its last one.

    One for all blocks of a process, so that a tunnel and the client that opened it meet in one
    loop, and a hundred tunnels do not take a hundred threads. A process that is forked begins
    anew: threads are not copied.
    """

    def __init__(self) -> None:
        # Reentrant: garbage that is collected where it is held may release the loop.
        self._lock = threading.RLock()
        self._loop: BackgroundLoop | None = None
        self._users = 0
        self._blocks: dict[object, _Leave] = {}

    @contextmanager
    def held(self) -> Iterator[BackgroundLoop]:
        """Have the loop run for as long as the block lasts."""
        loop = self.hold()
        try:
            yield loop
        finally:
            self.release(loop)

    def hold(self) -> BackgroundLoop:
        """Return the loop, which runs until :meth:`release` was called as often as this."""
        with self._lock:
            # Counted first, for the same reason.
            self._users += 1
            loop = self._loop
            if loop is not None:
                return loop
            loop = self._loop = BackgroundLoop("tailrace")
        # Without the lock: garbage that is collected in the new thread may take it.
        try:
            loop.start()
        except BaseException:
            self.release(loop)
            raise
        return loop

    def release(self, loop: BackgroundLoop) -> None:
        """Need the loop no more; the last release ends its thread."""
        with self._lock:
            if loop is not self._loop:
                return  # of the process that has forked this one, or the program is ending
            self._users -= 1
            if self._users:
                return
            self._loop = None
        loop.end()

    def leave_at_exit(self, block: object, leave: _Leave) -> None:
        """Have ``leave`` called when the program ends before the block does."""
        self._blocks[block] = leave

    def leaves(self, block: object) -> bool:
        """Return whether a block is to be left, and not by :meth:`end` any more.

        It is not where ``end`` has done so already, nor in a process that was forked inside of it.
        """
        return self._blocks.pop(block, None) is not None

    def end(self) -> None:
        """Leave all blocks; called when the program ends, which takes a few seconds at most."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        with suppress(LocalProtocolError):
            loop.run(self._leave_all())
        loop.end(_THREAD_SECONDS)

    def forget(self) -> None:
        """Begin anew; called in a process that was forked."""
        self._lock = threading.RLock()
        self._loop = None
        self._users = 0
        self._blocks.clear()

    async def _leave_all(self) -> None:
        loop = asyncio.get_running_loop()
        leaving = [loop.create_task(leave()) for leave in self._blocks.values()]
        self._blocks.clear()
        if leaving:
            done, _ = await asyncio.wait(leaving, timeout=_EXIT_SECONDS)
            for task in done:
                task.exception()  # what matters was logged


SHARED: Final = SharedLoop()
"""The loop of this process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=SHARED.forget)
atexit.register(SHARED.end)
