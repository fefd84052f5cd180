"""Waiting for a store that another process has locked, outside the turns of the event loop.

The store itself never waits: it fails at once, and says that it is busy. Callers that can wait do
so here, between attempts, while the loop goes on. One caller at a time asks again and the others
queue behind it, so that a lock costs the loop the same however many wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from ..errors import StoreFailed

__all__ = ["Patience"]

_T = TypeVar("_T")

_SECONDS: Final = 5.0
_BETWEEN: Final = 0.02
"""Seconds between two attempts. One takes some microseconds."""
_WAITING: Final = 100
"""Callers that may wait; each of them holds a request."""


class Patience:
    """Repeats what has failed because the store was busy."""

    def __init__(self, seconds: float = _SECONDS) -> None:
        self._seconds = seconds
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def run(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """Return what ``attempt`` returns, once the store is not busy.

        Raises:
            StoreFailed: it is busy for too long, or too many wait, or something else is wrong.
        """
        try:
            return await attempt()
        except StoreFailed as failed:
            if not failed.busy or self._waiting >= _WAITING:
                raise
        deadline = asyncio.get_running_loop().time() + self._seconds
        self._waiting += 1
        try:
            async with self._turn:
                while True:
                    try:
                        return await attempt()
                    except StoreFailed as failed:
                        if not failed.busy or asyncio.get_running_loop().time() >= deadline:
                            raise
                    await asyncio.sleep(_BETWEEN)
        finally:
            self._waiting -= 1
