"""Files of the state directory: written whole or not at all, never readable by others first."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from ..errors import ConfigurationError

__all__ = ["make_private_directory", "write_file"]


def write_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Put ``content`` at ``path`` atomically, with ``mode`` from the first moment.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with open(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from error


def make_private_directory(path: Path) -> None:
    """Make ``path`` and what is missing above it; a new directory has mode 0700.

    Raises:
        ConfigurationError: it cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"cannot make the directory {path}: {error.strerror}; choose another with --state-dir"
        ) from error
