"""Secrets cut out of texts from outside, and out of log records: the last resort.

A secret travels as :class:`~tailrace.common.secret.Secret`, which shows nothing of itself, and
what holds one, such as a URL with a password, is formatted without it. That leaves texts of others:
exceptions of libraries, and what a peer says. Tokens are cut out of these, because nothing else
looks like them. A password may be any word: cutting it out would mutilate the program's own lines,
and each gap would give it away. :func:`is_unmistakable` decides what is ever cut out.
"""

from __future__ import annotations

import logging
import re
from typing import Final

from .secret import Secret

__all__ = [
    "Redaction",
    "RedactionFilter",
    "is_unmistakable",
    "message_of",
    "register_secrets",
]

_REDACTED: Final = "<redacted>"
_LONG: Final = 16
"""Characters from which on a text without blanks is no word, if it has more than letters."""
_LONGER: Final = 32
"""Characters from which on it is no word even so: client tokens may have letters only."""


def is_unmistakable(text: str) -> bool:
    """Return whether wherever ``text`` stands, it can only be the secret itself."""
    if any(c.isspace() for c in text):
        return False
    return len(text) >= (_LONGER if text.isalpha() else _LONG)


class Redaction:
    """Replaces secrets in texts."""

    def __init__(self) -> None:
        self._texts: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, *secrets: Secret) -> None:
        """Replace those that are unmistakable from now on, also where a text shows them escaped."""
        for text in filter(is_unmistakable, (secret.reveal() for secret in secrets)):
            self._texts |= {text, ascii(text)[1:-1], repr(text)[1:-1]}
        # Longest first: one secret may be the beginning of another.
        texts = sorted(self._texts, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, texts))) if texts else None

    def __bool__(self) -> bool:
        return self._pattern is not None

    def redact(self, text: str) -> str:
        """Return ``text`` with ``<redacted>`` in place of each secret."""
        return text if self._pattern is None else self._pattern.sub(_REDACTED, text)


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
