"""Secrets taken out of texts, and out of log records."""

from __future__ import annotations

import logging
import re
from typing import Final

from .secret import Secret

__all__ = ["Redaction", "RedactionFilter", "message_of", "register_secrets"]

_REDACTED: Final = "<redacted>"
_SHORT: Final = 8
"""Secrets of fewer characters are only replaced where they are a word of their own."""


class Redaction:
    """Replaces secrets in texts."""

    def __init__(self) -> None:
        self._texts: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, *secrets: Secret) -> None:
        """Replace these secrets from now on, also where a text shows them escaped."""
        for text in (secret.reveal() for secret in secrets if secret):
            self._texts |= {text, ascii(text)[1:-1], repr(text)[1:-1]}
        # Longest first: one secret may be the beginning of another.
        texts = sorted(self._texts, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(_pattern, texts))) if texts else None

    def __bool__(self) -> bool:
        return self._pattern is not None

    def redact(self, text: str) -> str:
        """Return ``text`` with ``<redacted>`` in place of each secret."""
        return text if self._pattern is None else self._pattern.sub(_REDACTED, text)


def _pattern(text: str) -> str:
    escaped = re.escape(text)
    return escaped if len(text) >= _SHORT else rf"(?<!\w){escaped}(?!\w)"


class RedactionFilter(logging.Filter):
    """Takes secrets out of every record that a handler is given: text, arguments, traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.redaction = Redaction()

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact ``record`` in place; every record passes."""
        if not self.redaction:
            return True
        redact = self.redaction.redact
        record.msg = redact(message_of(record))
        record.args = None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        record.exc_info = None
        if record.exc_text:
            record.exc_text = redact(record.exc_text)
        if record.stack_info:
            record.stack_info = redact(record.stack_info)
        return True


def register_secrets(*secrets: Secret) -> None:
    """Take these secrets out of what handlers with a :class:`RedactionFilter` log from now on."""
    for handler in logging.getLogger().handlers:
        for each in handler.filters:
            if isinstance(each, RedactionFilter):
                each.redaction.add(*secrets)


def message_of(record: logging.LogRecord) -> str:
    """Return the text of a record, whether its arguments fit or not."""
    try:
        return record.getMessage()
    except (TypeError, ValueError):  # a bug in one log call must not end the program
        return str(record.msg)
