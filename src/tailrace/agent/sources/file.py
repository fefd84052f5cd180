"""Notifications in a file that another program writes.

The file holds one notification, or one on each line; it is replaced, or lines are appended. It may
be missing for now. Anybody who may write to it may have this device serve a tunnel, so a file that
other users may write to is not read.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

from ...common.private_files import OTHERS, OTHERS_MAY_WRITE, open_private
from ...common.wall_clock import CLOCK_SET
from ...errors import NotificationNotStored
from ..notification import LIFETIME
from .base import Receive
from .documents import delivery_of, is_whole, split_documents

__all__ = ["FileSource", "read_notify_file"]

_PERIOD: Final = 0.25
"""Seconds between two looks at the file."""
_RETRY_DELAY: Final = 5.0
"""Seconds after which what could not be stored is delivered again."""
_MOST: Final = 65_536
"""Bytes that are read: the last ones, of a file that others append to."""

_Version: TypeAlias = tuple[int, int, int]

_log = logging.getLogger("tailrace.agent")


def read_notify_file(path: Path) -> tuple[bytes, os.stat_result]:
    """Return what a file holds: the last 64 KiB, of whole lines; and what the system says of it.

    Raises:
        OSError: it cannot be read, or other users may write to it; ``strerror`` says so.
    """
    with open(open_private(path, os.O_RDONLY, OTHERS_MAY_WRITE), "rb") as file:
        found = os.fstat(file.fileno())
        if found.st_size <= _MOST:
            return file.read(_MOST), found
        file.seek(-_MOST, os.SEEK_END)
        # The first line may lack its beginning.
        return file.read(_MOST).partition(b"\n")[2], found


class FileSource:
    """Watches a file for notifications.

    Example: ``await agent.run(tailrace.FileSource("/run/tunnel.json"))``
    """

    def __init__(
        self, path: str | os.PathLike[str], *, now: Callable[[], float] = time.time
    ) -> None:
        """Prepare; nothing is opened before :meth:`run`.

        Args:
            path: the file, which need not exist yet.
            now: clock that the time of the file is compared with, in seconds since the epoch.
        """
        self._path = Path(path)
        self._now = now
        self._version: _Version | None = None
        """The file as it was delivered."""
        self._unfinished: _Version | None = None
        """The file as it was when it did not seem to be written to its end."""
        self._is_open_to_others = False
        self._delivered: set[bytes] = set()
        """SHA-256 of the documents that were in it."""
        self._fault = ""

    @property
    def name(self) -> str:
        """Name for logs and the status."""
        return f"file {self._path}"

    def status(self) -> str:
        """Return whether the file is being watched, or why it cannot be read."""
        return self._fault or "watched"

    async def run(self, receive: Receive) -> None:
        """Deliver what the file holds and will hold, until cancelled."""
        while True:
            delay = _PERIOD
            for document in self._new_documents():
                try:
                    await receive(delivery_of(document))
                except NotificationNotStored:
                    self._version = None
                    delay = _RETRY_DELAY
                    break
                self._delivered.add(hashlib.sha256(document).digest())
            await asyncio.sleep(delay)

    def _new_documents(self) -> list[bytes]:
        """Return the documents that were not delivered from this file yet."""
        try:
            content = self._changed_content()
        except FileNotFoundError:
            self._set_fault("there is no such file yet")
            return []
        except OSError as error:
            self._set_fault(f"it cannot be read: {error.strerror}", logging.WARNING)
            return []
        self._set_fault("")
        documents = split_documents(content)
        digests = {hashlib.sha256(each).digest(): each for each in documents}
        if content:
            self._delivered &= digests.keys()
        return [each for digest, each in digests.items() if digest not in self._delivered]

    def _changed_content(self) -> bytes:
        """Return the content if it is another one, b"" otherwise."""
        found = self._path.lstat()
        version = found.st_ino, found.st_size, found.st_mtime_ns
        if version == self._version:
            return b""
        content, opened = read_notify_file(self._path)
        self._note_readers(opened.st_mode & OTHERS != 0)
        if not is_whole(content) and version != self._unfinished:
            self._unfinished = version
            return b""
        self._version = version
        # What was written before the clock was set tells no age.
        if found.st_mtime >= CLOCK_SET and self._now() - found.st_mtime > LIFETIME:
            _log.info("%s is older than any tunnel: passed over", self.name)
            return b""
        return content

    def _note_readers(self, is_open_to_others: bool) -> None:
        if is_open_to_others and not self._is_open_to_others:
            _log.warning(
                "%s can be read by other users, who get its tokens: chmod 600 %s",
                self.name,
                self._path,
            )
        self._is_open_to_others = is_open_to_others

    def _set_fault(self, fault: str, level: int = logging.INFO) -> None:
        if fault and fault != self._fault:
            _log.log(level, "%s: %s", self.name, fault)
        self._fault = fault
