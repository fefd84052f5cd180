"""Errors of the network in the operating system's words."""

from __future__ import annotations

import errno
import os
import socket
import sys

__all__ = ["network_error_text"]


def network_error_text(error: BaseException | None) -> str:
    """Return the operating system's words for an error, without those of libraries."""
    if isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    if isinstance(error, OSError) and error.errno:
        return _text_of(error.errno)
    if isinstance(error, ConnectionResetError):
        return _text_of(errno.ECONNRESET)
    return str(error) or type(error).__name__


def _text_of(number: int) -> str:
    if sys.platform == "win32":
        import ctypes

        if number >= 10_000:  # those of Winsock, unknown to strerror
            return ctypes.FormatError(number)
    return os.strerror(number)
