"""Hide an argument of this process from the list of processes."""

from __future__ import annotations

import os
import sys
from typing import Final

from ...common.secret import Secret

__all__ = ["hide_argument"]

_ARG_START: Final = 48
_ARG_END: Final = 49
"""Fields of ``/proc/self/stat``, counted from 1 (proc_pid_stat(5))."""
_MAX_ARGUMENTS: Final = 4 * 1024 * 1024
_MIN_LENGTH: Final = 8
"""Shorter texts are likely to be part of other arguments too."""


def hide_argument(secret: Secret) -> bool:
    """Overwrite ``secret`` with ``x`` in the arguments that others see of this process.

    Linux only, and only where a process may write to its own memory through
    ``/proc/self/mem``. Returns whether it was found and overwritten. Until then the
    secret was visible: this narrows the window, it does not close it.
    """
    text = os.fsencode(secret.reveal())
    if not sys.platform.startswith("linux") or len(text) < _MIN_LENGTH:
        return False
    try:
        with open("/proc/self/stat", "rb") as file:
            # The second field, the name in parentheses, may hold spaces and parentheses.
            fields = file.read().rpartition(b")")[2].split()
        start, end = (int(fields[number - 3]) for number in (_ARG_START, _ARG_END))
        if not 0 < end - start <= _MAX_ARGUMENTS:
            return False
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            arguments = memory.read(end - start)
            if text not in arguments:
                return False
            memory.seek(start)
            memory.write(arguments.replace(text, b"x" * len(text)))
    except (OSError, ValueError, IndexError):
        return False
    return True
