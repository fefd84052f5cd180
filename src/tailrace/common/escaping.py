"""Texts for a log or a terminal: what cannot be printed is escaped, what is too long is cut."""

from __future__ import annotations

from typing import Final

__all__ = ["LONGEST_LINE", "cut", "escape", "escape_lines", "one_line", "printable"]

LONGEST_LINE: Final = 2000
"""Characters of one record of a log, or one line of a traceback, before they are escaped."""

_INDENT: Final = "  "


def cut(text: str, most: int) -> str:
    """Return ``text``, or its beginning and three dots when it is longer than ``most``."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def escape(text: str) -> str:
    """Return ``text`` on one line, each character that cannot be printed as a Python escape.

    That is each control, format and separator character but the space: the result can neither
    start a line of its own nor steer a terminal nor turn the direction of text.
    """
    return text if text.isprintable() else "".join(map(_escape_character, text))


def printable(text: str) -> str:
    """Return ``text``, as long as it was, a question mark for what :func:`escape` escapes."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def one_line(said: object) -> str:
    """Return on one line what a peer says: it may be megabytes, or steer a terminal."""
    return escape(cut(" ".join(str(said).split()), LONGEST_LINE))


def escape_lines(text: str) -> str:
    """Return the lines of a traceback, cut, escaped and indented: none looks like a log record."""
    return "\n".join(_INDENT + escape(cut(line, LONGEST_LINE)) for line in text.split("\n"))


def _escape_character(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]
