"""Moving changes from the log of an SQLite file into the file, in a thread.

A commit only appends to the log. What SQLite would do by itself every thousand pages, and in the
middle of a commit, waits for the disk: tens of milliseconds on a good one, seconds on a card.
A *passive* checkpoint holds up neither who reads nor who writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

__all__ = ["LOG_BYTES", "Checkpoints"]

LOG_BYTES: Final = 4 * 1024**2
"""Size of the log from which it is worth it. SQLite begins the log anew, and cuts it to this size,
with the first change after a checkpoint that got to its end."""

_INTERVAL: Final = 1.0


class Checkpoints:
    """Keeps the log of the store at ``path`` short, from :meth:`start` until :meth:`stop`."""

    def __init__(self, path: Path, interval: float = _INTERVAL) -> None:
        self._path = path
        self._log = path.with_name(path.name + "-wal")
        self._interval = interval
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None]

    def start(self) -> None:
        """Look at the log regularly."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Stop, after the checkpoint that is under way."""
        self._stopping.set()
        await self._task

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        # Its own, which ends with it: the loop's threads stay.
        with ThreadPoolExecutor(1, "tailrace checkpoint") as executor:
            while not self._stopping.is_set():
                if self._is_long():
                    await loop.run_in_executor(executor, self._checkpoint)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._interval):
                        await self._stopping.wait()

    def _is_long(self) -> bool:
        try:
            return self._log.stat().st_size > LOG_BYTES
        except OSError:
            return False

    def _checkpoint(self) -> None:
        # It is tried again, and a store that cannot be written says so with its next change.
        with (
            contextlib.suppress(sqlite3.Error),
            contextlib.closing(sqlite3.connect(self._path, isolation_level=None)) as connection,
        ):
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
