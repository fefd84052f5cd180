"""Which parts of the benchmark a run is about."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from .errors import BenchError

__all__ = ["Part", "Selection", "parse_parts"]


@dataclass(frozen=True, slots=True)
class Part:
    """A scenario, one of its cases, or either with one contender."""

    scenario: str
    case: str | None = None
    contender: str | None = None

    def has(self, scenario: str, case: str | None, contender: str | None) -> bool:
        """Tell whether something belongs to it; ``None`` means any, on either side."""
        return (
            self.scenario == scenario
            and (None in (case, self.case) or case == self.case)
            and (None in (contender, self.contender) or contender == self.contender)
        )


@dataclass(frozen=True, slots=True)
class Selection:
    """Some parts; without any, everything."""

    parts: Collection[Part] = ()

    def has(self, scenario: str, *, case: str | None = None, contender: str | None = None) -> bool:
        """Tell whether something of a scenario is to be measured."""
        return not self.parts or any(part.has(scenario, case, contender) for part in self.parts)


def parse_parts(texts: Iterable[str], scenarios: Collection[str]) -> list[Part]:
    """Return the parts named by ``SCENARIO`` or ``SCENARIO:CASE``, separated by commas.

    Raises:
        BenchError: there is no such scenario.
    """
    parts = []
    for text in (word.strip() for words in texts for word in words.split(",")):
        scenario, _, case = text.partition(":")
        if scenario not in scenarios:
            raise BenchError(f"no such scenario: {scenario!r}; try --list")
        parts.append(Part(scenario, case.strip() or None))
    return parts
