"""Log lines as text, and as JSON objects for programs that collect them.

What comes from outside may be in any of them, so no character that steers a terminal is, and
none is longer than it may be.
"""

from __future__ import annotations

import json
import logging
import re
from types import TracebackType
from typing import Final

from ...common.escaping import LONGEST_LINE, cut, escape, escape_lines
from .audit import timestamp

__all__ = ["JsonFormatter", "TextFormatter"]

_TEXT_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"

_TRACEBACK: Final = 10 * LONGEST_LINE
"""Characters of a traceback in JSON."""

_SUBJECT: Final = re.compile(r"(channel|request|tunnel) (\S+): ")


_ExceptionInfo = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)


class TextFormatter(logging.Formatter):
    """One line for each record, and the indented lines of its traceback."""

    def __init__(self) -> None:
        super().__init__(_TEXT_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return escape(cut(super().formatMessage(record), LONGEST_LINE))

    def formatException(self, ei: _ExceptionInfo) -> str:
        """Return the traceback."""
        return escape_lines(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:
        """Return the stack."""
        return escape_lines(super().formatStack(stack_info))


class JsonFormatter(logging.Formatter):
    """One object per line: ``time``, ``level``, ``logger``, ``message``, and an id.

    The service's messages about a connection, a request or a tunnel begin with
    ``channel ID:``, ``request ID:`` or ``tunnel ID:``; that becomes a field of its own.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without an end of line."""
        message = cut(record.getMessage(), LONGEST_LINE)
        document = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        subject = _SUBJECT.match(message)
        if subject is not None:
            document[subject[1]] = subject[2]
            message = message[subject.end() :]
        document["message"] = message
        if record.exc_info:
            document["exception"] = cut(self.formatException(record.exc_info), _TRACEBACK)
        return json.dumps(document)
