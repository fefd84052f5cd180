"""Limit what a single read may bring, so that a link can be stopped before the next one.

picows doubles its receive buffer whenever a read fills it, without an upper bound, and
handles all frames of a read before reading can be paused. aiofastnet fills the buffer it is
given, so a client that sends faster than it is read would bring megabytes of tiny frames in
one turn of the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

from ...common.extension import load

__all__ = ["FULL_READ", "SMALL_READ", "ReadLimiter", "limit_reads_of"]

FULL_READ: Final = 16 * 1024
"""Bytes of one read: a TLS record."""

SMALL_READ: Final = 2 * 1024
"""Bytes of one read from a client whose frames are tiny."""


def limit_reads_of(inner: asyncio.BufferedProtocol) -> ReadLimiter:
    """Return what to put between ``inner`` and its transport."""
    extension = load()
    if extension is None:
        return ReadLimiter(inner)
    limiter: ReadLimiter = extension.ReadLimiter(inner, FULL_READ)
    return limiter


class ReadLimiter(asyncio.BufferedProtocol):
    """Stands between a transport and its protocol, and offers ``read_size`` bytes at a time."""

    __slots__ = ("_free", "_inner", "buffer_updated", "read_size")

    buffer_updated: Any
    """The inner protocol's own: what was read is handed on without a call in between."""

    def __init__(self, inner: asyncio.BufferedProtocol) -> None:
        self._inner = inner
        self._free = cast(Callable[[int], memoryview], inner.get_buffer)
        self.read_size = FULL_READ
        self.buffer_updated = inner.buffer_updated

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the beginning of the buffer that the inner protocol has free."""
        return self._free(sizehint)[: self.read_size]

    def eof_received(self) -> bool | None:
        """Called when the client sends no more."""
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        """Called when the client takes in too little."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Called when the client has caught up."""
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called when the connection is gone."""
        self._inner.connection_lost(exc)
