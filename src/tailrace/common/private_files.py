"""Files and directories that no other user may have tampered with, checked before use.

A name may lead elsewhere than its owner thinks: to a link that somebody else has placed, to a pipe
that holds up who opens it, to a file that others write to. So files are opened without
following a link at their name and without waiting, and judged by their descriptor. Directories may
be reached through links, as those of systemd's services are.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

__all__ = ["OTHERS", "OTHERS_MAY_WRITE", "open_private", "why_not_private"]

OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
OTHERS_MAY_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH

_PERMISSIONS: Final = 0o777
_OTHER_OWNER: Final = "it belongs to another user (uid {})"
_POSIX: Final = os.name == "posix"
# What Windows does not have. A pipe without a reader fails instead of waiting for one.
_FLAGS: Final = (
    getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
)


def open_private(path: Path, flags: int, forbidden: int = OTHERS_MAY_WRITE) -> int:
    """Open a file for this user and nobody else; return the descriptor.

    ``flags`` are those of :func:`os.open`; a new file has mode 0600. ``forbidden`` are the
    permissions that the file must not give.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be opened, is a link or no regular file, or is not private;
            ``strerror`` says so, and what to do.
    """
    try:
        handle = os.open(path, flags | _FLAGS, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _refused(path, "it is a symbolic link; give the file itself") from None
        if error.errno == errno.ENXIO:
            raise _refused(path, "it is not a regular file") from None
        raise
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise _refused(path, "it is not a regular file")
        reason = _of_others(path, found) or _open_to_others(path, found, forbidden)
        if reason:
            raise _refused(path, reason)
    except OSError:
        os.close(handle)
        raise
    return handle


def _of_others(path: Path, found: os.stat_result) -> str:
    if not _POSIX or found.st_uid in (os.geteuid(), 0):
        return ""
    if os.geteuid() == 0 and found.st_uid == path.parent.stat().st_uid:
        # Root looks after the files of a service that runs as another user.
        return ""
    return _OTHER_OWNER.format(found.st_uid)


def _open_to_others(path: Path, found: os.stat_result, forbidden: int) -> str:
    if not _POSIX or not found.st_mode & forbidden:
        return ""
    mode = stat.S_IMODE(found.st_mode) & _PERMISSIONS & ~forbidden
    return f"it is open to other users: chmod {mode:o} {path}"


def why_not_private(directory: Path) -> str:
    """Return why a directory cannot be trusted, and what to do; an empty text when it can.

    It must belong to this user or to root, and nobody else may write to it.

    Raises:
        OSError: it cannot be looked at.
    """
    found = directory.stat()
    if _POSIX and found.st_uid not in (os.geteuid(), 0):
        return _OTHER_OWNER.format(found.st_uid)
    return _open_to_others(directory, found, OTHERS_MAY_WRITE)


def _refused(path: Path, reason: str) -> OSError:
    return OSError(errno.EPERM, reason, str(path))
