"""Files that are written whole or not at all, and never readable by others first."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from ..errors import ConfigurationError
from .private_files import why_not_private

__all__ = ["make_private_directory", "write_atomically", "write_file"]


def write_atomically(
    path: Path,
    content: bytes,
    mode: int = 0o600,
    *,
    durable: bool = True,
    exclusive: bool = False,
    owner: tuple[int, int] | None = None,
    despite_umask: bool = False,
) -> None:
    """Put ``content`` at ``path`` in one step, with ``mode`` from the first moment.

    It belongs to user and group of ``owner``, which is for root. A ``durable`` file survives a
    power failure right after; an ``exclusive`` one replaces nothing. ``despite_umask`` gives it
    all of ``mode``: the umask of an administrator may be narrow.

    Raises:
        FileExistsError: ``exclusive``, and there is something at ``path``.
        OSError: the file cannot be written; what was at ``path`` is still there.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    handle = os.open(temporary, flags, mode)
    try:
        with open(handle, "wb") as file:
            if owner is not None:
                os.fchown(file.fileno(), *owner)
            if despite_umask and os.chmod in os.supports_fd:
                # Not by name: others who may write to the directory could put a link there.
                os.chmod(file.fileno(), mode)
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        if exclusive:
            os.link(temporary, path)
        else:
            os.replace(temporary, path)
        if durable:
            _sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    """Write a directory out: a name in it would otherwise not survive a power failure."""
    flags = getattr(os, "O_DIRECTORY", None)
    if flags is None:  # Windows opens no directories
        return
    handle = os.open(directory, os.O_RDONLY | flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(
    path: Path, content: bytes, mode: int = 0o600, *, owner: tuple[int, int] | None = None
) -> None:
    """Put ``content`` at ``path`` as :func:`write_atomically` does.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    try:
        write_atomically(path, content, mode, owner=owner)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from error


def make_private_directory(path: Path) -> None:
    """Make a directory for state, and what is missing above it; a new one has mode 0700.

    Raises:
        ConfigurationError: it cannot be made, or other users may write to the one that exists;
            the setting at fault is ``state_dir``.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        reason = why_not_private(path)
    except OSError as error:
        raise ConfigurationError(
            f"cannot make the directory {path}: {error.strerror}", setting="state_dir"
        ) from error
    if reason:
        raise ConfigurationError(f"cannot use the directory {path}: {reason}", setting="state_dir")
