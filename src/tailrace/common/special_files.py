"""Files whose reading may never end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

__all__ = ["is_special", "read_regular_file"]


def is_special(path: Path) -> bool:
    """Return whether ``path`` is a pipe, a socket or a device other than the null device.

    One of them in the place of a file would hold up its reader for ever.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return False  # reading it will raise the same error
    is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or (is_device and str(path) != os.devnull)


def read_regular_file(path: Path, most: int) -> bytes:
    """Return what a file holds, without waiting for anything but the disk.

    Raises:
        OSError: it cannot be read, is not a regular file, or has more than ``most`` bytes;
            ``strerror`` says so.
    """
    # A pipe without a writer would hold up who opens it.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    handle = os.open(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        with open(handle, "rb", closefd=False) as file:
            content = file.read(most + 1)
    finally:
        os.close(handle)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes", str(path))
    return content
