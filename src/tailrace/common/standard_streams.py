"""The standard streams of a process: some may be closed, or have no reader."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

__all__ = ["discard", "open_standard_streams"]

_NAMES = ("stdin", "stdout", "stderr")


def open_standard_streams() -> None:
    """Open ``/dev/null`` where descriptor 0, 1 or 2 is closed; to be called before all else.

    The next sockets would get these numbers, and a line for standard error would go to a peer;
    uvloop aborts the process when it closes one of them.
    """
    for number, name in enumerate(_NAMES):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number (POSIX), which is this one
            os.set_inheritable(number, True)
            stream = open(number, "w" if number else "r", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def discard(stream: TextIO) -> None:
    """Send the rest to the null device: the flush at the end of the process cannot fail again."""
    with contextlib.suppress(OSError, ValueError):
        number = stream.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)
