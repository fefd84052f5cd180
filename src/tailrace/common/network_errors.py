"""Errors of the network in the operating system's words."""

from __future__ import annotations

import errno
import os
import socket

__all__ = ["network_error_text"]


def network_error_text(error: BaseException | None) -> str:
    """Return the operating system's words for an error, without those of libraries."""
    if isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    if isinstance(error, ConnectionResetError):
        return os.strerror(errno.ECONNRESET)
    return str(error) or type(error).__name__
