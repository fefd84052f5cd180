"""Secrets taken out of log records."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Final

from .secret import Secret

__all__ = ["RedactionFilter", "message_of", "register_secrets"]

_REDACTED: Final = "<redacted>"
_SHORT: Final = 8
"""Secrets of fewer characters are only replaced where they are a word of their own."""


class RedactionFilter(logging.Filter):
    """Takes registered secrets out of every record: text, arguments, traceback."""

    def __init__(self) -> None:
        super().__init__()
        self._texts: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, secrets: Iterable[Secret]) -> None:
        """Take these secrets out of all records from now on."""
        for text in (secret.reveal() for secret in secrets if secret):
            self._texts |= {text, ascii(text)[1:-1], repr(text)[1:-1]}
        # Longest first: one secret may be the beginning of another.
        texts = sorted(self._texts, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(_pattern, texts))) if texts else None

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact ``record`` in place; every record passes."""
        if self._pattern is None:
            return True
        record.msg = self._pattern.sub(_REDACTED, message_of(record))
        record.args = None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        record.exc_info = None
        if record.exc_text:
            record.exc_text = self._pattern.sub(_REDACTED, record.exc_text)
        if record.stack_info:
            record.stack_info = self._pattern.sub(_REDACTED, record.stack_info)
        return True


def register_secrets(*secrets: Secret) -> None:
    """Take these secrets out of everything that is logged from now on."""
    for handler in logging.getLogger().handlers:
        for each in handler.filters:
            if isinstance(each, RedactionFilter):
                each.add(secrets)


def message_of(record: logging.LogRecord) -> str:
    """Return the text of a record, whether its arguments fit or not."""
    try:
        return record.getMessage()
    except (TypeError, ValueError):  # arguments that do not fit: no reason to stop
        return str(record.msg)


def _pattern(text: str) -> str:
    escaped = re.escape(text)
    return escaped if len(text) >= _SHORT else rf"(?<!\w){escaped}(?!\w)"
