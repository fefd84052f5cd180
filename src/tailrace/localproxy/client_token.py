"""What a local proxy keeps over a restart: the client token it generated.

With the same client token an access token lets its bearer in again (guide V3,
handshake). Without it a restarted proxy would be refused and the tunnel's tokens would
have to be rotated.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from pathlib import Path
from typing import Final

from ..common.atomic_files import make_private_directory, write_atomically
from ..common.secret import Secret, is_client_token
from ..errors import ConfigurationError

__all__ = ["client_token"]

_KEEP_SECONDS: Final = 7 * 24 * 3600
"""A tunnel lives 12 hours at most; what is older than this is of no use to anybody."""
_SUFFIX: Final = ".client-token"


def client_token(directory: Path, access_token: Secret) -> Secret:
    """Return the client token that belongs to an access token, generating it the first time.

    The file is named after the hash of the access token and readable by its owner only.

    Raises:
        ConfigurationError: the directory or the file cannot be used; the text names it.
    """
    path = directory / (access_token.digest + _SUFFIX)
    make_private_directory(directory)
    try:
        try:
            token = _read(path)
        except FileNotFoundError:
            token = _create(path)
        # Only now: a device without a clock battery may have written it in 1970.
        _forget_old(directory)
        return token
    except OSError as error:
        raise ConfigurationError(
            f"Cannot keep the client token in {directory}: {error.strerror}", setting="state_dir"
        ) from None


def _read(path: Path) -> Secret:
    text = path.read_text(encoding="ascii", errors="replace")
    if not is_client_token(text):
        # A full disk or a crash may have left a part of it.
        path.unlink()
        raise FileNotFoundError
    os.utime(path)
    return Secret(text)


def _create(path: Path) -> Secret:
    """Write a new token; of two proxies that start at once, both take the first one's."""
    token = str(uuid.uuid4())
    try:
        write_atomically(path, token.encode(), exclusive=True)
    except FileExistsError:
        return _read(path)
    return Secret(token)


def _forget_old(directory: Path) -> None:
    limit = time.time() - _KEEP_SECONDS
    for path in directory.glob(f"*{_SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < limit:
                path.unlink()
