"""Notifications on standard input, one on each line, as a program that starts the agent writes."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import AsyncIterator
from typing import Final

from ...errors import NotificationNotStored
from .base import Receive
from .documents import Lines, delivery_of

__all__ = ["StdinSource"]

_RETRY_DELAY: Final = 5.0
"""Seconds after which what could not be stored is delivered again."""
_PIECE: Final = 4096
"""Bytes that are read at once."""

_log = logging.getLogger("tailrace.agent")


class StdinSource:
    """Reads notifications from a descriptor, by default standard input, until its end.

    Example: ``await agent.run(tailrace.StdinSource())``
    """

    def __init__(self, descriptor: int = 0) -> None:
        """Prepare; nothing is read before :meth:`run`."""
        self._descriptor = descriptor
        self._ended = False

    @property
    def name(self) -> str:
        """Name for logs and the status."""
        return "standard input"

    def status(self) -> str:
        """Return whether it is being read."""
        return "ended" if self._ended else "read"

    async def run(self, receive: Receive) -> None:
        """Deliver each line until the end of standard input."""
        lines = Lines()
        dropped = 0
        async for piece in self._pieces():
            for line in lines.feed(piece):
                await self._deliver(line, receive)
            if lines.dropped > dropped:
                dropped = lines.dropped
                _log.warning("%s: a line is too long: dropped", self.name)
        for line in lines.end():
            await self._deliver(line, receive)
        self._ended = True

    async def _deliver(self, line: bytes, receive: Receive) -> None:
        """Deliver a line as often as it takes: it cannot be read again."""
        while True:
            try:
                await receive(delivery_of(line))
                return
            except NotificationNotStored:
                await asyncio.sleep(_RETRY_DELAY)

    async def _pieces(self) -> AsyncIterator[bytes]:
        mode = os.fstat(self._descriptor).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(self._descriptor)):
            # What has no end that others write to is read without waiting: files, /dev/null.
            while piece := os.read(self._descriptor, _PIECE):
                yield piece
                await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        blocking = os.get_blocking(self._descriptor)
        reader = asyncio.StreamReader(limit=_PIECE)
        # A duplicate, because the transport closes what it reads from.
        pipe = os.fdopen(os.dup(self._descriptor), "rb", buffering=0)
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            while piece := await reader.read(_PIECE):
                yield piece
        finally:
            transport.close()
            # The terminal or pipe is shared with other programs.
            os.set_blocking(self._descriptor, blocking)
