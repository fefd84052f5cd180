"""What somebody may have meant by a name that does not exist."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

__all__ = ["closest_name", "did_you_mean"]

_LONGEST: Final = 64
"""Characters of a name; what is longer may be a token, and is like nothing."""
_LIKENESS: Final = 0.6


def closest_name(word: str, names: Iterable[str]) -> str:
    """Return the name most like ``word``, whatever its case, "" if none is."""
    from difflib import get_close_matches  # only mistakes need it

    if len(word) > _LONGEST:
        return ""
    named = {each.lower(): each for each in names}
    found = get_close_matches(word.lower(), named, 1, _LIKENESS)
    return named[found[0]] if found else ""


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return the question "Did you mean ...?" for the name most like ``word``, "" if none is."""
    name = closest_name(word, names)
    return f"Did you mean '{name}'?" if name else ""
