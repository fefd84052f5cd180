"""Accepts connections such that each of them belongs to a task from its first moment on.

asyncio's own servers keep connections to themselves until they are set up, and leave those
behind when the loop ends.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Final

__all__ = ["Acceptor"]

_BACKLOG: Final = 100


class Acceptor:
    """Runs ``serve`` in a task for each connection to a socket; ``serve`` closes it."""

    def __init__(self, serve: Callable[[socket.socket], Coroutine[Any, Any, None]]) -> None:
        self._serve = serve
        self._listening: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: set[socket.socket] = set()
        """Connections whose task has not begun, and nobody else would close."""

    @property
    def listens(self) -> bool:
        """Whether connections are accepted."""
        return self._listening is not None

    def listen(self, bound: socket.socket) -> None:
        """Accept connections; the socket, which does not block, is closed with :meth:`close`."""
        bound.listen(_BACKLOG)
        self._listening = bound
        asyncio.get_running_loop().add_reader(bound, self._accept, bound)

    def close(self) -> None:
        """Accept no more; connections that are open go on."""
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
            self._listening = None

    async def stop(self) -> None:
        """Accept no more, and cancel all tasks."""
        self.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, listening: socket.socket) -> None:
        try:
            connection, _ = listening.accept()
        except OSError:
            return  # it has gone again
        connection.setblocking(False)
        self._waiting.add(connection)
        task = asyncio.get_running_loop().create_task(self._run(connection))
        self._tasks.add(task)

        def done(_: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if connection in self._waiting:
                self._waiting.discard(connection)
                connection.close()

        task.add_done_callback(done)

    async def _run(self, connection: socket.socket) -> None:
        self._waiting.discard(connection)
        await self._serve(connection)
