"""Exceptions that no code can catch: of destructors, of callbacks in C, of threads."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["stray_exceptions_logged"]

_log = logging.getLogger(__name__)


@contextmanager
def stray_exceptions_logged() -> Iterator[None]:
    """Log them within the block, or in the function that this decorates.

    Python would print them to standard error as they are, past the log that escapes control
    characters, cuts secrets out and counts floods.
    """
    before = sys.unraisablehook, threading.excepthook
    sys.unraisablehook = _log_unraisable
    threading.excepthook = _log_of_thread
    try:
        yield
    finally:
        sys.unraisablehook, threading.excepthook = before


def _log_unraisable(found: sys.UnraisableHookArgs) -> None:
    if found.exc_value is not None:
        where = found.err_msg or "Exception ignored in"
        _log.error("%s %s", where, type(found.object).__name__, exc_info=found.exc_value)


def _log_of_thread(found: threading.ExceptHookArgs) -> None:
    if found.exc_value is not None:
        name = found.thread.name if found.thread is not None else "gone"
        _log.error("exception in thread %s", name, exc_info=found.exc_value)
