"""Whether there is a process."""

from __future__ import annotations

import sys

__all__ = ["is_running"]

if sys.platform == "win32":
    import ctypes

    _SYNCHRONIZE = 0x00100000
    _STILL_RUNS = 0x102  # WAIT_TIMEOUT
    _ACCESS_DENIED = 5

    def is_running(pid: int) -> bool:
        """Return whether a process runs; ``os.kill(pid, 0)`` would interrupt it."""
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        handle = kernel.OpenProcess(_SYNCHRONIZE, False, pid)
        if not handle:
            return ctypes.get_last_error() == _ACCESS_DENIED
        try:
            return int(kernel.WaitForSingleObject(handle, 0)) == _STILL_RUNS
        finally:
            kernel.CloseHandle(handle)

else:
    import os

    def is_running(pid: int) -> bool:
        """Return whether a process runs, also one of another user.

        Raises:
            OverflowError, TypeError: ``pid`` is not the number of a process.
        """
        try:
            os.kill(pid, 0)
        except PermissionError:
            return True
        except OSError:
            return False
        return True
