"""Where control sockets are: one directory of each user, one socket of each process.

The directory belongs to its user, and others may not write to it; a socket has mode 0600 from the
moment it can be found, because it is made under another name. The name of a socket is
``PID-KIND.sock``. A process that was killed leaves its socket behind: nobody listens at it, which
is how others know, and they remove it.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Final

from ..common.atomic_files import make_private_directory
from ..common.user_directories import runtime_directory
from ..errors import ConfigurationError

__all__ = [
    "HAS_SOCKETS",
    "SOCKET_NAME",
    "connected",
    "control_directory",
    "listening_socket",
    "remove_stale",
    "socket_files",
]

HAS_SOCKETS: Final = hasattr(socket, "AF_UNIX")
"""Whether this system has unix sockets."""

SOCKET_NAME: Final = re.compile(r"(\d{1,10})-([a-z-]{1,20}?)(?:-\d)?\.sock")
"""Process id and kind; the number at the end is for processes of the same id."""

_LONGEST_ADDRESS: Final = 100
"""Bytes of an address that every system takes: Linux has 107, others 103."""
_BACKLOG: Final = 16
_MOST: Final = 1000
"""Sockets of one directory that are looked at."""
_SUFFIX: Final = ".sock"
_NAMES: Final = 10
"""Processes with the same id: containers may share a directory."""


def control_directory(environment: Mapping[str, str]) -> Path:
    """Return the directory of this user's control sockets. It may not exist yet.

    That is ``tailrace`` below the directory of systemd's ``RuntimeDirectory=``, or below that of
    the XDG base directories if it is this user's own, which ``su`` may leave behind.

    Raises:
        ConfigurationError: it is below the user's home directory, which is not known.
    """
    of_unit = environment.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if os.path.isabs(of_unit):
        return Path(of_unit) / "tailrace"
    of_session = environment.get("XDG_RUNTIME_DIR", "")
    if of_session and not _is_own(of_session):
        environment = {**environment, "XDG_RUNTIME_DIR": ""}
    return runtime_directory(environment)


def _is_own(directory: str) -> bool:
    with suppress(OSError):
        return os.stat(directory).st_uid == os.geteuid()
    return False


@contextmanager
def listening_socket(directory: Path, kind: str) -> Iterator[socket.socket]:
    """Listen at the socket of this process for the body; its name is removed then.

    Raises:
        ConfigurationError: the directory cannot be used.
        OSError: there can be no socket.
    """
    make_private_directory(directory)
    remove_stale(directory)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path = _listen(sock, directory, kind)
        made = path.stat()
        try:
            yield sock
        finally:
            with suppress(OSError):
                # A directory that was made anew may hold another one by this name.
                if os.path.samestat(path.lstat(), made):
                    path.unlink()
    finally:
        sock.close()


def _listen(sock: socket.socket, directory: Path, kind: str) -> Path:
    """Give a socket a name, once it can be connected to: until then it would look dead."""
    hidden = directory / f".{os.getpid()}-{kind}"
    hidden.unlink(missing_ok=True)
    with _address(hidden) as address:
        sock.bind(address)
    try:
        hidden.chmod(0o600)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
        for number in range(_NAMES):
            path = directory / f"{os.getpid()}-{kind}{f'-{number}' if number else ''}{_SUFFIX}"
            # A dead process may have had our id, another container may have it.
            if not os.path.lexists(path) or _is_stale(path):
                return hidden.rename(path)
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), str(path))
    except OSError:
        hidden.unlink(missing_ok=True)
        raise


def socket_files(directory: Path) -> list[Path]:
    """Return the control sockets of a directory, a thousand at most, in the order of their names.

    Raises:
        OSError: it cannot be read; ``FileNotFoundError``: it does not exist.
    """
    with os.scandir(directory) as entries:
        names = [each.name for each in islice(entries, _MOST) if _is_socket(each)]
    return [directory / name for name in sorted(names)]


def _is_socket(entry: os.DirEntry[str]) -> bool:
    if not SOCKET_NAME.fullmatch(entry.name):
        return False  # others keep sockets of their own there
    with suppress(OSError):  # it has gone meanwhile
        return stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode)
    return False


def connected(path: Path) -> socket.socket:
    """Return a socket, non-blocking, that is connected to a control socket. Never waits.

    Raises:
        ConnectionRefusedError: nobody listens there.
        OSError: there is no connection; ``BlockingIOError``: too many wait for one.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        with _address(path) as address:
            sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def remove_stale(directory: Path) -> int:
    """Remove the sockets of processes that were killed; return how many there were."""
    removed = 0
    with suppress(OSError):
        for path in socket_files(directory):
            removed += _is_stale(path) and _remove(path)
    return removed


def _remove(path: Path) -> bool:
    with suppress(OSError):
        path.unlink()
        return True
    return False


def _is_stale(path: Path) -> bool:
    """Return whether nobody listens at a socket any more."""
    try:
        connected(path).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        pass
    return False


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """Give a path as the address of a socket; one that is too long goes by the way of /proc.

    Raises:
        ConfigurationError: it is too long, and this system has no other way.
    """
    if len(os.fsencode(path)) <= _LONGEST_ADDRESS:
        yield str(path)
        return
    handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        way = f"/proc/self/fd/{handle}"
        if not os.path.isdir(way):
            raise ConfigurationError(f"{path} is too long for a socket: set XDG_RUNTIME_DIR")
        yield f"{way}/{path.name}"
    finally:
        os.close(handle)
