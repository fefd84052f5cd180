"""A file in the state directory that ``tailrace`` commands change while a service runs.

It is never changed in place: a new one is written and renamed over the old, which gives another
inode each time. Processes that change it hold the lock of a file of their own beside it, because
the file itself is another one after each change. Those that only read it look whether its
*signature* has changed: inode, mode, size and times of change, from one ``stat``. An editor that
writes in place, and a change of mode, are noticed, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from ...common.atomic_files import make_private_directory, write_file
from ...common.file_lock import locked
from ...common.private_files import OTHERS, open_private
from ...errors import ConfigurationError

__all__ = ["Signature", "StateFile"]

Signature: TypeAlias = tuple[int, int, int, int, int]


class StateFile:
    """A file of mode 0600; changed by one process at a time, and replaced atomically."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def make_directory(self) -> None:
        """Make the state directory, or see that no other user may write to it.

        Root may look after the files of a service that runs as another user.

        Raises:
            ConfigurationError: it cannot be used.
        """
        if not (_is_root() and self.path.parent.is_dir()):
            make_private_directory(self.path.parent)

    def signature(self) -> Signature | None:
        """Return a value that changes with the file, ``None`` when it does not exist."""
        try:
            found = self.path.lstat()
        except OSError:
            return None
        return (
            found.st_ino,
            found.st_mode,
            found.st_size,
            found.st_mtime_ns,
            found.st_ctime_ns,
        )

    def read_bytes(self) -> bytes | None:
        """Return the content, ``None`` when the file does not exist.

        Raises:
            ConfigurationError: it cannot be read, or is open to other users.
        """
        try:
            with open(open_private(self.path, os.O_RDONLY, OTHERS), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigurationError(f"cannot read {self.path}: {error.strerror}") from error

    def replace(self, content: bytes) -> None:
        """Write a new file in place of the old; call it within :meth:`locked`.

        Raises:
            ConfigurationError: it cannot be written.
        """
        write_file(self.path, content, owner=self._owner())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from changing the file during the body.

        Raises:
            ConfigurationError: the lock cannot be used.
        """
        lock = self.path.with_name(self.path.name + ".lock")
        with locked(lock, wait=True):
            owner = self._owner()
            if owner is not None:
                try:
                    os.chown(lock, *owner, follow_symlinks=False)
                except OSError as error:
                    raise ConfigurationError(
                        f"cannot give {lock} to the user of the service: {error.strerror}"
                    ) from error
            yield

    def _owner(self) -> tuple[int, int] | None:
        """Return to whom a file of root belongs: the user of the state directory, and its group."""
        if not _is_root():
            return None
        directory = self.path.parent.stat()
        return directory.st_uid, directory.st_gid


def _is_root() -> bool:
    return os.name == "posix" and os.geteuid() == 0
