"""What a scenario is waiting for, so that a wait in vain can say so."""

from __future__ import annotations

from contextvars import ContextVar

__all__ = ["Progress", "waiting"]


class Progress:
    """The latest wait of one scenario, its tasks included."""

    _current: ContextVar[Progress] = ContextVar("progress")

    def __init__(self) -> None:
        self.waits_for = "the first step"
        self._current.set(self)

    @classmethod
    def note(cls, what: str) -> None:
        """Say what the running scenario waits for from now on."""
        cls._current.get().waits_for = what


def waiting(what: str) -> None:
    """Say what the running scenario waits for from now on."""
    Progress.note(what)
