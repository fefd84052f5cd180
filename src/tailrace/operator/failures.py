"""Why a command of this room ends without success."""

from __future__ import annotations

from typing import Final

from ..errors import TailraceError

__all__ = ["CommandFailed", "Terminated"]

_LOST: Final = 4
"""The status of a command whose way to the service has failed: docs/reference/exit-codes.md."""


class CommandFailed(TailraceError):
    """The command cannot go on; ``status`` is what to end with."""

    def __init__(self, message: str, status: int = _LOST) -> None:
        super().__init__(message)
        self.status = status


class Terminated(BaseException):
    """A signal asks the command to end; as with Ctrl-C, everything is cleaned up on the way."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
