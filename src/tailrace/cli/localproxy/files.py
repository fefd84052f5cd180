"""The few things that settings need from the file system and from standard input."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = [
    "MAX_FILE_SIZE",
    "default_state_dir",
    "is_filled_directory",
    "is_missing_or_empty",
    "read_line",
    "read_text",
    "regular_files",
]

MAX_FILE_SIZE: Final = 1_048_576
"""Bytes; no configuration file is larger, so a device or a log named by mistake is refused."""
_MAX_LINE: Final = 65_536
_STATE: Final = "tailrace-localproxy"


def default_state_dir(environ: Mapping[str, str], name: str = _STATE) -> Path | None:
    """Return where what outlives the process is kept for this user, ``None`` if nowhere.

    That is below the directory of systemd's ``StateDirectory=``, or that of the XDG base
    directories: one that is this user's own. ``sudo`` may leave another user's ``HOME``.
    """
    of_unit = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    for given in (of_unit, environ.get("XDG_STATE_HOME", "")):
        if os.path.isabs(given):
            return Path(given) / name
    for home in (environ.get("HOME", ""), _home_of_record()):
        with suppress(OSError):
            if os.path.isabs(home) and os.stat(home).st_uid == _user():
                return Path(home) / ".local" / "state" / name
    return None


def _user() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0


def _home_of_record() -> str:
    try:
        import pwd

        return pwd.getpwuid(_user()).pw_dir
    except (ImportError, KeyError):
        return ""


def read_text(path: str) -> str:
    """Return the text of a file; bytes that are not UTF-8 become surrogates (PEP 383).

    Raises:
        OSError: it cannot be read, or has more than :data:`MAX_FILE_SIZE` bytes.
    """
    with open(path, "rb") as file:
        data = file.read(MAX_FILE_SIZE + 1)
    if len(data) > MAX_FILE_SIZE:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return data.decode("utf-8-sig", errors="surrogateescape")


def read_line(prompt: str) -> str:
    """Return one line of standard input without its end; ask for it on a terminal."""
    if sys.stdin is None:  # the process was started with standard input closed
        return ""
    if sys.stdin.isatty():
        from getpass import getpass

        return getpass(prompt)
    return sys.stdin.readline(_MAX_LINE).rstrip("\r\n")


def is_filled_directory(path: str) -> bool:
    """Return whether ``path`` is a directory with something in it that can be read."""
    try:
        with os.scandir(path) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def is_missing_or_empty(path: str) -> bool:
    """Return whether nothing is at ``path``, or a directory with nothing in it."""
    try:
        with os.scandir(path) as entries:
            return next(entries, None) is None
    except FileNotFoundError:
        return True
    except OSError:
        return False


def regular_files(directory: str) -> list[str]:
    """Return the paths of all files below ``directory``, in the order of their names.

    Links to files count, links to directories are not followed; what cannot be read
    is left out.
    """
    found = []
    for folder, folders, names in os.walk(directory):
        folders.sort()
        found += [os.path.join(folder, name) for name in sorted(names)]
    return [path for path in found if os.path.isfile(path)]
