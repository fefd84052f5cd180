"""What is fuzzed: where inputs come from, what is done with them, which errors may come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Generic, TypeVar

from hypothesis import strategies as st

__all__ = ["Target", "Verdict"]

T = TypeVar("T")

Verdict = bool
"""Whether an input was taken; ``False``: refused with an error that is allowed."""


@dataclass(frozen=True, slots=True)
class Target(Generic[T]):
    """One kind of input.

    ``check`` gives an input to the code and asserts what must hold of the outcome. The
    errors of ``allowed`` are refusals; anything else that leaves ``check`` is a finding.
    """

    name: str
    about: str
    inputs: st.SearchStrategy[T]
    check: Callable[[T], None]
    allowed: tuple[type[Exception], ...]
    corpus: tuple[T, ...]
    """Inputs to begin with, valid ones and such that must be refused."""
    vary: Callable[[T, Random], T]
    """Returns an input near a given one. Cheap: from each input that Hypothesis makes up,
    some more are made this way."""

    def run(self, value: T) -> Verdict:
        """Run one input; anything but an allowed error leaves."""
        try:
            self.check(value)
        except self.allowed:
            return False
        return True
