"""Files whose reading may never end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["is_special"]


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
