"""Verdicts on parsers: any text gives a value or the documented error."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from tailrace.errors import ConfigurationError

__all__ = ["refusal", "value_unless_refused"]

P = ParamSpec("P")
T = TypeVar("T")


def value_unless_refused(parse: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """Return what ``parse`` returns, ``None`` if it refuses with a fit message."""
    try:
        return parse(*args, **kwargs)
    except ConfigurationError as error:
        said = f"{error}{getattr(error, 'hint', '')}"
    assert said.isprintable(), said
    return None


def refusal(parse: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> str:
    """Return the message with which ``parse`` refuses, "" if it does not."""
    try:
        parse(*args, **kwargs)
    except ConfigurationError as error:
        return str(error)
    return ""
