"""The shapes of which the service model describes requests, and their constraints.

Patterns are kept as the model writes them; ``re`` does not know Unicode categories
(``\\p{L}``), so :class:`Pattern` translates the one form that occurs.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

__all__ = ["Boolean", "Integer", "Listing", "Pattern", "Shape", "Structure", "Text"]

_FORM: Final = re.compile(
    r"\^?\(?\[(?P<negated>\^)?(?P<items>(?:\\.|[^\\\[\]])+)\](?P<repeat>\*|\+|\{\d+,\d+\})\)?\$?"
)
_CATEGORY: Final = re.compile(r"\\p\{([A-Z][a-z]?)\}")


class Pattern:
    """One character class, repeated: all that the patterns of this service consist of."""

    __slots__ = ("_categories", "_longest", "_negated", "_others", "_shortest", "text")

    def __init__(self, text: str) -> None:
        form = _FORM.fullmatch(text)
        if form is None:
            raise ValueError(f"pattern {text!r} is not one repeated character class")
        self.text = text
        self._negated = form["negated"] is not None
        self._categories = tuple(_CATEGORY.findall(form["items"]))
        others = _CATEGORY.sub("", form["items"])
        self._others = re.compile(f"[{others}]") if others else None
        self._shortest, self._longest = _bounds(form["repeat"])

    def matches(self, value: str) -> bool:
        """Return whether the whole of ``value`` matches."""
        if len(value) < self._shortest or (self._longest and len(value) > self._longest):
            return False
        return all(self._allows(character) for character in value)

    def _allows(self, character: str) -> bool:
        listed = unicodedata.category(character).startswith(self._categories or "-") or (
            self._others is not None and self._others.match(character) is not None
        )
        return listed is not self._negated


def _bounds(repeat: str) -> tuple[int, int | None]:
    if repeat in "*+":
        return (1 if repeat == "+" else 0), None
    shortest, longest = repeat[1:-1].split(",")
    return int(shortest), int(longest)


@dataclass(frozen=True, slots=True)
class Text:
    """A string; lengths in characters."""

    min: int | None = None
    max: int | None = None
    pattern: Pattern | None = None
    enum: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number."""

    min: int | None = None
    max: int | None = None


@dataclass(frozen=True, slots=True)
class Boolean:
    """True or false."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Some values of one shape; ``min`` and ``max`` count them."""

    member: Shape
    min: int | None = None
    max: int | None = None


@dataclass(frozen=True, slots=True)
class Structure:
    """Named members; ``required`` ones must be there."""

    members: Mapping[str, Shape] = field(default_factory=dict)
    required: tuple[str, ...] = ()


Shape: TypeAlias = Text | Integer | Boolean | Listing | Structure
