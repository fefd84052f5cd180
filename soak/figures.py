"""What is counted, and what of it makes a soak fail."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

__all__ = ["Figures", "traceback_in"]

_KEPT: Final = 20
"""Descriptions of failures that are kept; the rest is counted."""


def traceback_in(log: str) -> str:
    """Return the first traceback of a log with a little of what is around it, or nothing."""
    at = log.find("Traceback")
    return log[max(0, at - 200) : at + 2000] if at >= 0 else ""


@dataclass(slots=True)
class Figures:
    """Counters of one run."""

    bytes_up: int = 0
    bytes_down: int = 0
    opened: Counter[str] = field(default_factory=Counter)
    """Connections by kind of load."""
    ended: Counter[str] = field(default_factory=Counter)
    """Connections by how they ended."""
    faults: Counter[str] = field(default_factory=Counter)
    links: int = 0
    """Links to the service that were made after the first ones."""
    restarts: int = 0
    """Processes that were killed and started again."""
    failures: Counter[str] = field(default_factory=Counter)
    stories: list[str] = field(default_factory=list)

    def fail(self, what: str, story: str) -> None:
        """Count a failure; the first ones are told in full."""
        self.failures[what] += 1
        if len(self.stories) < _KEPT:
            self.stories.append(f"{what}: {story}")
