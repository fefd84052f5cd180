"""Locks that processes hold on files, where the system has them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..errors import ConfigurationError
from .private_files import open_private

if sys.platform != "win32":
    import fcntl

__all__ = ["HAS_LOCKS", "lock", "locked"]

HAS_LOCKS: Final = sys.platform != "win32"
"""Whether a lock ends with the process that holds it, and other processes see it."""


def lock(handle: int, *, wait: bool) -> None:
    """Lock an open file until it is closed; nothing is done where there are no locks.

    Raises:
        BlockingIOError: another process holds the lock, and ``wait`` is false.
        OSError: the file cannot be locked.
    """
    if sys.platform != "win32":
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock of the file at ``path``, which is made with mode 0600, for the body.

    On systems other than POSIX nothing is locked.

    Raises:
        ConfigurationError: the file cannot be opened, trusted or, as on some network file
            systems, locked.
        BlockingIOError: another process holds the lock, and ``wait`` is false.
    """
    try:
        handle = open_private(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from error
    try:
        try:
            lock(handle, wait=wait)
        except BlockingIOError:
            raise
        except OSError as error:
            raise ConfigurationError(f"cannot lock {path}: {error.strerror}") from error
        yield
    finally:
        # The lock goes with the descriptor, also when the process is killed.
        os.close(handle)
