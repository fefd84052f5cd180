"""Log lines as JSON objects, for programs that collect them."""

from __future__ import annotations

import json
import logging
import re
from typing import Final

from .audit import timestamp

__all__ = ["TEXT_FORMAT", "JsonFormatter"]

TEXT_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"

_SUBJECT: Final = re.compile(r"(channel|request|tunnel) (\S+): ")


class JsonFormatter(logging.Formatter):
    """One object per line: ``time``, ``level``, ``logger``, ``message``, and an id.

    The service's messages about a connection, a request or a tunnel begin with
    ``channel ID:``, ``request ID:`` or ``tunnel ID:``; that becomes a field of its own.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without an end of line."""
        message = record.getMessage()
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
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document, ensure_ascii=False)
