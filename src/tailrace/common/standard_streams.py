"""The standard streams of a process whose parent has closed some of them."""

from __future__ import annotations

import os
import sys

__all__ = ["open_standard_streams"]

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
