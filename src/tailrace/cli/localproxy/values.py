"""The values of options: from text to value, and what is shown of them to people. Pure."""

from __future__ import annotations

from typing import Final, TypeAlias

from ...common.escaping import cut, escape
from ...errors import ConfigurationError
from .options import Kind, Option

__all__ = ["WHITESPACE", "UsageError", "Value", "parse_value", "printable"]

WHITESPACE: Final = " \t\n\v\f\r"
"""What is stripped from both ends of names and values in files and maps."""
_SHOWN_LENGTH: Final = 64
_SHOWN_VALUE_LENGTH: Final = 16
_MAX_DIGITS: Final = 18

Value: TypeAlias = str | int | float | bool
"""What :func:`parse_value` makes of the text of an option's value."""

_SWITCH_WORDS: Final = {
    "": True,
    "on": True,
    "yes": True,
    "1": True,
    "true": True,
    "off": False,
    "no": False,
    "0": False,
    "false": False,
}


class UsageError(ConfigurationError):
    """The command was called wrongly.

    Reported on standard error as the reason, the ``hint`` if there is one, and a
    pointer to ``--help``; it is not a log record.
    """

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


def printable(text: str, limit: int = _SHOWN_LENGTH) -> str:
    """Return ``text`` fit for a message: one printable line of at most ``limit`` characters."""
    return escape(cut(text, limit))


def parse_value(option: Option, text: str, spelling: str) -> Value:
    """Return the value that ``text`` means for ``option``.

    ``spelling`` is the option as the user wrote it, for the message: with dashes from a
    command line, without them from a file.

    Raises:
        UsageError: the option has no such value.
    """
    value = _understood(option, text)
    if value is None:
        given = f" ('{printable(text)}')" if 0 < len(text) <= _SHOWN_VALUE_LENGTH else ""
        choices, hint = _expected(option)
        raise UsageError(f"the argument{given} for option '{spelling}' is invalid{choices}", hint)
    return value


def _understood(option: Option, text: str) -> Value | None:
    number: int | float | None
    match option.kind:
        case Kind.TEXT:
            return text
        case Kind.SWITCH:
            return _SWITCH_WORDS.get(text.lower())
        case Kind.CHOICE:
            return text if text in option.choices else None
        case Kind.COUNT:
            number = int(text) if _is_digits(text) else None
        case Kind.SECONDS:
            number = _decimal(text)
    return number if number is not None and option.minimum <= number <= option.maximum else None


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS


def _decimal(text: str) -> float | None:
    """Return the number that ``text`` writes in plain decimal digits, ``None`` otherwise."""
    whole, point, fraction = text.partition(".")
    if not _is_digits(whole) or (point and not _is_digits(fraction)):
        return None
    return float(text)


def _expected(option: Option) -> tuple[str, str]:
    """Return the valid values, for the end of the reason, and the hint that follows it."""
    match option.kind:
        case Kind.SWITCH:
            return ". Valid choices are 'on|off', 'yes|no', '1|0' and 'true|false'", ""
        case Kind.CHOICE:
            return f". Valid choices are {', '.join(option.choices)}", ""
        case Kind.COUNT:
            bounds = f"from {option.minimum:.0f} to {option.maximum:.0f}"
            return "", f"Give a whole number {bounds}."
        case _:
            bounds = f"from {option.minimum:g} to {option.maximum:.0f}"
            return "", f"Give a number of seconds {bounds}."
