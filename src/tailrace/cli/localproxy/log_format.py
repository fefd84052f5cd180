"""The log of the command: format and levels of the C++ command, secrets left out.

One record is one line, ``[YYYY-mm-dd HH:MM:SS.ffffff] (0x<thread id>) [severity] text``, on
standard error; only tracebacks take more. Everything goes through the standard
:mod:`logging`, so a program that uses the library can have its own format.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Final

from ...common.escaping import LONGEST_LINE, cut, escape, escape_lines
from ...common.log_floods import FloodFilter
from ...common.queued_output import QueuedHandler, QueuedOutput
from ...common.redaction import RedactionFilter, message_of

__all__ = [
    "MAX_VERBOSITY",
    "TRACE",
    "ConsoleFormatter",
    "set_up_logging",
    "set_verbosity",
    "threshold",
]

TRACE: Final = 5
"""Level of records below debug: what ``-v 6`` adds."""

MAX_VERBOSITY: Final = 6
_OFF: Final = logging.CRITICAL + 10
_PACKAGE: Final = "tailrace"

_THRESHOLDS: Final = (
    _OFF,
    logging.CRITICAL,
    logging.ERROR,
    logging.WARNING,
    logging.INFO,
    logging.DEBUG,
    TRACE,
)
_SEVERITIES: Final = {
    logging.CRITICAL: "fatal",
    logging.ERROR: "error",
    logging.WARNING: "warning",
    logging.INFO: "info",
    logging.DEBUG: "debug",
}


def threshold(verbosity: int) -> int:
    """Return the lowest :mod:`logging` level that ``-v verbosity`` shows (0 to 6 and above)."""
    return _THRESHOLDS[min(max(verbosity, 0), MAX_VERBOSITY)]


def _severity(number: int) -> str:
    exact = _SEVERITIES.get(number)
    return exact or next((_SEVERITIES[level] for level in _SEVERITIES if number >= level), "trace")


class ConsoleFormatter(logging.Formatter):
    """Formats a record the way the C++ command does.

    Control characters in the text, which may come from the network, are written as
    escapes: they can neither start a line of their own nor steer a terminal.
    """

    def __init__(self) -> None:
        super().__init__()
        self._latest = (-1, "")
        """The second of the latest record, and how it is written: many share one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of ``record``, and its traceback on further lines."""
        seconds = int(record.created)
        micros = int((record.created - seconds) * 1_000_000)
        latest, stamp = self._latest
        if latest != seconds:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
            self._latest = (seconds, stamp)
        line = (
            f"[{stamp}.{micros:06d}] (0x{record.thread or 0:016x}) [{_severity(record.levelno)}]"
            f" {escape(cut(message_of(record), LONGEST_LINE))}"
        )
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        for extra in (record.exc_text, record.stack_info):
            if extra:
                line += f"\n{escape_lines(extra)}"
        return line


class _ConsoleHandler(QueuedHandler):
    """The handler of :func:`set_up_logging`."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        # In this order: what is counted is cut, and a part of a secret would not be found.
        self.addFilter(RedactionFilter())
        self.addFilter(FloodFilter(logging.WARNING))
        self.setFormatter(ConsoleFormatter())

    def handleError(self, record: logging.LogRecord) -> None:
        """Go on without the line."""


def set_up_logging(verbosity: int) -> QueuedOutput:
    """Log to standard error what ``-v verbosity`` shows; return what writes there.

    Records of other packages are shown from "warning" on only: at lower levels they may
    quote headers of the upgrade request.
    """
    root = logging.getLogger()
    for handler in _console_handlers():
        root.removeHandler(handler)
        handler.close()
    console = _ConsoleHandler()
    root.addHandler(console)
    logging.addLevelName(TRACE, "TRACE")
    set_verbosity(verbosity)
    return console.output


def set_verbosity(verbosity: int) -> None:
    """Change what is shown."""
    level = threshold(verbosity)
    logging.getLogger().setLevel(max(level, logging.WARNING))
    logging.getLogger(_PACKAGE).setLevel(level)


def _console_handlers() -> list[_ConsoleHandler]:
    return [h for h in logging.getLogger().handlers if isinstance(h, _ConsoleHandler)]
