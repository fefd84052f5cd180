"""What a local proxy keeps over a restart: the client token it generated.

With the same client token an access token lets its bearer in again (guide V3,
handshake). Without it a restarted proxy would be refused and the tunnel's tokens would
have to be rotated.

There is one file for each access token, named after its digest. Its first line is the client
token, its second says which process has it now. That process holds the lock of the file, which
goes with it however it ends: two proxies with one token would take the place of each other at the
service for ever.

No clock decides what is forgotten, because that of a device may not be set yet, or be wrong.
"""

from __future__ import annotations

import errno
import os
import platform
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from io import FileIO
from pathlib import Path
from typing import Final

from ..common.atomic_files import make_private_directory
from ..common.escaping import escape
from ..common.secret import Secret, is_client_token
from ..errors import ConfigurationError

__all__ = ["kept_client_token"]

_MOST_FILES: Final = 1_000
"""Of more than these, the ones used longest ago are forgotten. A tunnel lives 12 hours at most."""
_SUFFIX: Final = ".client-token"
_MAX_SIZE: Final = 512
_POLL: Final = 0.1


@contextmanager
def kept_client_token(
    directory: Path, access_token: Secret, patience: float = 0.0
) -> Iterator[Secret]:
    """Hold the client token that belongs to an access token; it is made the first time.

    Args:
        directory: made with mode 0700 if it does not exist; the file in it has mode 0600.
        patience: seconds to wait for a process that has the token now, and may be about to end.

    Raises:
        ConfigurationError: another process has the token (the setting at fault is
            ``access_token``), or the directory or the file cannot be used (``state_dir``).
    """
    path = directory / (access_token.digest + _SUFFIX)
    make_private_directory(directory)
    try:
        file = _open_locked(path, patience)
    except OSError as error:
        raise _unusable(directory, error) from None
    with file:
        try:
            token = _read_or_make(file)
            _forget_oldest(directory)
        except OSError as error:
            raise _unusable(directory, error) from None
        yield token


def _unusable(directory: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"Cannot keep the client token in {directory}: {error.strerror}", setting="state_dir"
    )


def _open_locked(path: Path, patience: float) -> FileIO:
    deadline = time.monotonic() + patience
    while True:
        with ExitStack() as stack:
            file = stack.enter_context(FileIO(path, "r+", opener=_open))
            if not _lock(file):
                if time.monotonic() >= deadline:
                    raise _taken(file)
                time.sleep(_POLL)
            elif _is_at(file, path):  # else it was forgotten between opening and locking
                stack.pop_all()
                return file


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)


def _lock(file: FileIO) -> bool:
    """Lock a file, if its file system has locks; return whether no other process has done so."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return True


def _is_at(file: FileIO, path: Path) -> bool:
    """Return whether an open file is still the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lines(file: FileIO) -> tuple[str, str]:
    """Return the client token, if the file has one, and who has it."""
    file.seek(0)
    text = file.read(_MAX_SIZE).decode("ascii", "replace")
    token, _, holder = text.partition("\n")
    return token, holder


def _taken(file: FileIO) -> ConfigurationError:
    holder = escape(_lines(file)[1].strip()) or "it is just starting"
    return ConfigurationError(
        f"Another local proxy has this access token: {holder}; stop it, or give this one a token"
        " of its own",
        setting="access_token",
    )


def _read_or_make(file: FileIO) -> Secret:
    token, _ = _lines(file)
    if not is_client_token(token):
        # The file is new, or a full disk or a crash has left a part of it.
        token = str(uuid.uuid4())
        file.truncate(0)
        file.seek(0)
        if file.write(token.encode()) != len(token):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file.fileno())
    now = datetime.now().astimezone().isoformat(" ", "seconds")
    holder = f"\npid {os.getpid()} on {platform.node()}, since {now}"
    with suppress(OSError):
        # Behind the token, so that no fault can damage that.
        file.seek(len(token))
        file.truncate()
        file.write(holder.encode("ascii", "replace"))
        os.utime(file.fileno())
    return Secret(token)


def _forget_oldest(directory: Path) -> None:
    found = list(directory.glob(f"*{_SUFFIX}"))
    if len(found) <= _MOST_FILES:
        return
    with suppress(OSError):
        found.sort(key=lambda path: path.stat().st_mtime)
    for path in found[:-_MOST_FILES]:
        with suppress(OSError), FileIO(path, "r+") as file:
            if _lock(file):
                path.unlink()
