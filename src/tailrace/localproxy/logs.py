"""The log of the command: format and levels of the C++ command, secrets left out.

One record is one line, ``[YYYY-mm-dd HH:MM:SS.ffffff] (0x<thread id>) [severity] text``, on
standard error; only tracebacks take more. Everything goes through the standard
:mod:`logging`, so a program that uses the library can have its own format.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Iterable
from typing import Final, TextIO

from ..secret import Secret

__all__ = [
    "MAX_VERBOSITY",
    "TRACE",
    "ConsoleFormatter",
    "RedactionFilter",
    "register_secrets",
    "set_up_logging",
    "set_verbosity",
    "threshold",
]

TRACE: Final = 5
"""Level of records below debug: what ``-v 6`` adds."""

MAX_VERBOSITY: Final = 6
_OFF: Final = logging.CRITICAL + 10
_PACKAGE: Final = "tailrace"
_REDACTED: Final = "<redacted>"
_SHORT: Final = 8
"""Secrets of fewer characters are only replaced where they are a word of their own."""

_THRESHOLDS: Final = (
    _OFF,
    logging.CRITICAL,
    logging.ERROR,
    logging.WARNING,
    logging.INFO,
    logging.DEBUG,
    TRACE,
)
_SEVERITIES: Final = (
    (logging.CRITICAL, "fatal"),
    (logging.ERROR, "error"),
    (logging.WARNING, "warning"),
    (logging.INFO, "info"),
    (logging.DEBUG, "debug"),
)


def threshold(verbosity: int) -> int:
    """Return the lowest :mod:`logging` level that ``-v verbosity`` shows (0 to 6 and above)."""
    return _THRESHOLDS[min(max(verbosity, 0), MAX_VERBOSITY)]


class ConsoleFormatter(logging.Formatter):
    """Formats a record the way the C++ command does.

    Control characters in the text, which may come from the network, are written as
    escapes: they can neither start a line of their own nor steer a terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of ``record``, and its traceback on further lines."""
        seconds = int(record.created)
        micros = int((record.created - seconds) * 1_000_000)
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
        severity = next((name for level, name in _SEVERITIES if record.levelno >= level), "trace")
        line = (
            f"[{stamp}.{micros:06d}] (0x{record.thread or 0:016x}) [{severity}]"
            f" {_escaped(_message_of(record))}"
        )
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        for extra in (record.exc_text, record.stack_info):
            if extra:
                line += f"\n{extra}"
        return line


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
        record.msg = self._pattern.sub(_REDACTED, _message_of(record))
        record.args = None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        record.exc_info = None
        if record.exc_text:
            record.exc_text = self._pattern.sub(_REDACTED, record.exc_text)
        if record.stack_info:
            record.stack_info = self._pattern.sub(_REDACTED, record.stack_info)
        return True


class _ConsoleHandler(logging.StreamHandler[TextIO]):
    """The handler of :func:`set_up_logging`."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__(stream)
        self.redaction = RedactionFilter()
        self.addFilter(self.redaction)
        self.setFormatter(ConsoleFormatter())

    def handleError(self, record: logging.LogRecord) -> None:
        """Go on without the log when standard error is gone."""


def set_up_logging(verbosity: int, stream: TextIO | None = None) -> None:
    """Log to ``stream`` (standard error) what ``-v verbosity`` shows.

    Records of other packages are shown from "warning" on only: at lower levels they may
    quote headers of the upgrade request.
    """
    root = logging.getLogger()
    for handler in _console_handlers():
        root.removeHandler(handler)
    root.addHandler(_ConsoleHandler(sys.stderr if stream is None else stream))
    logging.addLevelName(TRACE, "TRACE")
    set_verbosity(verbosity)


def set_verbosity(verbosity: int) -> None:
    """Change what is shown."""
    level = threshold(verbosity)
    logging.getLogger().setLevel(max(level, logging.WARNING))
    logging.getLogger(_PACKAGE).setLevel(level)


def register_secrets(*secrets: Secret) -> None:
    """Take these secrets out of everything that is logged from now on."""
    for handler in _console_handlers():
        handler.redaction.add(secrets)


def _console_handlers() -> list[_ConsoleHandler]:
    return [h for h in logging.getLogger().handlers if isinstance(h, _ConsoleHandler)]


def _message_of(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):  # arguments that do not fit: no reason to stop
        return str(record.msg)


def _escaped(text: str) -> str:
    return text if text.isprintable() else "".join(map(_escaped_character, text))


def _escaped_character(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]


def _pattern(text: str) -> str:
    escaped = re.escape(text)
    return escaped if len(text) >= _SHORT else rf"(?<!\w){escaped}(?!\w)"
