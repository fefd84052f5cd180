"""A link handler for tests of links."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from support.waiting import HANG
from tailrace.link import LinkClosed

__all__ = ["Recorder"]


class Recorder:
    """A link handler that notes what it hears, and checks that the end is the end."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.size = 0
        self.pongs: list[bytes] = []
        self.marks: list[str] = []
        """``paused`` and ``resumed``, in order."""
        self.closed: asyncio.Future[LinkClosed] = asyncio.get_running_loop().create_future()
        self._changed = asyncio.Event()

    @property
    def stream(self) -> bytes:
        return b"".join(self.frames)

    def frame_received(self, payload: memoryview) -> None:
        assert not self.closed.done(), "a frame after the end"
        self.frames.append(bytes(payload))
        self.size += len(payload)
        self._changed.set()

    def writing_paused(self) -> None:
        self.marks.append("paused")
        self._changed.set()

    def writing_resumed(self) -> None:
        self.marks.append("resumed")
        self._changed.set()

    def pong_received(self, payload: bytes) -> None:
        assert not self.closed.done(), "a pong after the end"
        self.pongs.append(payload)
        self._changed.set()

    def link_closed(self, closed: LinkClosed) -> None:
        self.closed.set_result(closed)  # raises when it comes twice
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something heard makes the condition true."""
        async with asyncio.timeout(HANG):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def end(self) -> LinkClosed:
        """Wait for the end of the link."""
        async with asyncio.timeout(HANG):
            return await asyncio.shield(self.closed)
